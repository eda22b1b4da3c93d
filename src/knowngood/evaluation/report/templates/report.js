(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("table"), body = table.tBodies[0], more = document.getElementById("more");
  const find = document.getElementById("find"), show = document.getElementById("show"), shown = document.getElementById("shown");
  const rows = data.rows.map(([id, score, p, verdict, label, condition]) =>
    ({ id, score, p, verdict, label, condition: data.conditions[condition] }));
  const flagged = r => r.verdict === 1, passed = r => r.verdict === 0;
  const choices = [["all images", () => true], ["flagged", flagged], ["not flagged", passed]];
  if (data.labelled) choices.push(
    ["false alarms", r => flagged(r) && r.label === 0], ["missed anomalies", r => passed(r) && r.label === 1],
    ["detected anomalies", r => flagged(r) && r.label === 1], ["not labelled", r => r.label === null]);
  if (rows.some(r => r.verdict === 2)) choices.push(["not read", r => r.verdict === 2]);
  choices.forEach(([name], i) => show.add(new Option(name, i)));
  const keys = ["id", "score", "p", "verdict"].concat(data.labelled ? ["label"] : [], data.conditioned ? ["condition"] : []);
  const step = 100;
  let key = "score", direction = -1, limit = step;

  const fixed = (value, decimals) => value === null ? "–" : value.toFixed(decimals);
  const cells = { id: r => r.id, score: r => fixed(r.score, data.decimals[0]), p: r => fixed(r.p, data.decimals[1]), verdict: r => ["", "flagged", "not read"][r.verdict],
    label: r => r.label === null ? "" : data.names[r.label], condition: r => r.condition };
  const compare = (a, b) => {
    const x = a[key], y = b[key];
    if (x === y) return 0;
    if (x === null) return 1;
    if (y === null) return -1;
    return direction * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
  };
  const draw = () => {
    const words = find.value.toLowerCase(), keep = choices[show.value][1];
    const chosen = rows.filter(r => keep(r) && (!words || r.id.toLowerCase().includes(words) || r.condition.toLowerCase().includes(words)));
    chosen.sort(compare);
    body.replaceChildren(...chosen.slice(0, limit).map(row => {
      const tr = document.createElement("tr");
      for (const name of keys) {
        const td = tr.insertCell();
        const content = cells[name](row);
        if (name === "verdict" && content) {
          const badge = document.createElement("span");
          badge.className = row.verdict === 1 ? "badge flag" : "badge";
          badge.textContent = content;
          td.append(badge);
        } else td.textContent = content;
        if (name === "score" || name === "p") td.className = "n";
        if (name === "id") td.className = "id";
      }
      return tr;
    }));
    shown.textContent = `${chosen.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    more.hidden = chosen.length <= limit;
  };
  [...table.tHead.rows[0].cells].forEach((th, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = th.textContent;
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      direction = key === keys[i] ? -direction : ["score", "verdict", "label"].includes(keys[i]) ? -1 : 1;
      key = keys[i];
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      draw();
    });
  });
  const restart = () => { limit = step; draw(); };
  find.addEventListener("input", restart);
  show.addEventListener("change", restart);
  more.addEventListener("click", () => { limit += 5 * step; draw(); });
  const form = document.querySelector(".filters");
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  draw();

  const copy = document.getElementById("copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById("command").textContent);
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
  }
})();
