"""The page /docs: the OpenAPI description of the server, without a file from elsewhere."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>knowngood: API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { border-top: 1px solid #ccc; padding-top: 1rem; font-size: 1.1rem }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f4f4f4 }
pre { padding: .6rem; overflow: auto } td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }
</style>
<h1>knowngood</h1><p id="about"></p><main></main>
<script>
const add = (parent, tag, text) => {
  const node = parent.appendChild(document.createElement(tag));
  node.textContent = text ?? "";
  return node;
};
const table = (parent, rows) => {
  const body = add(parent, "table");
  for (const row of rows) {
    const line = add(body, "tr");
    row.forEach((cell, k) => add(line, k ? "td" : "th", cell));
  }
};
const example = (parent, title, value) => {
  add(parent, "p", title);
  add(parent, "pre", typeof value === "string" ? value : JSON.stringify(value, null, 1));
};
const media = (parent, title, content) => {
  for (const [kind, one] of Object.entries(content ?? {})) {
    const fields = Object.entries(one.schema?.properties ?? {});
    if (fields.length) table(parent, fields.map(([name, field]) => [name, field.description]));
    const examples = one.examples ?? (one.example === undefined ? {} : {example: {value: one.example}});
    for (const each of Object.values(examples)) example(parent, `${title}, ${each.summary ?? kind}`, each.value);
  }
};
fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  const main = document.querySelector("main");
  document.querySelector("#about").textContent = api.info.description;
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, call] of Object.entries(methods)) {
    add(main, "h2", `${method.toUpperCase()} ${path}`);
    add(main, "p", call.description ?? call.summary);
    if (call["x-curl"]) example(main, "On the command line", call["x-curl"]);
    media(main, "Request", call.requestBody?.content);
    for (const [status, answer] of Object.entries(call.responses)) {
      add(main, "p", `${status}: ${answer.description}`);
      media(main, `Answer ${status}`, answer.content);
    }
  }
});
</script>
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
