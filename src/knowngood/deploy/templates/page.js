"use strict";
const by = id => document.getElementById(id);
const STORED = "knowngood-key", WHO = "knowngood-who";
const state = { models: [], keeps: false, stamp: "", items: [], total: 0, kinds: [], open: null, answers: [] };

// Elements and requests -----------------------------------------------------------------------------------------------

const make = (space, tag, props = {}, ...children) => {
  const node = space ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false && child !== 0));
  return node;
};
const h = (tag, ...rest) => make(false, tag, ...rest);
const s = (tag, ...rest) => make(true, tag, ...rest);
const headers = key => (key ? { Authorization: `Bearer ${key}` } : {});

class Refused extends Error {}
const ask = async (path, options = {}) => {
  const key = sessionStorage.getItem(STORED);
  const answer = await fetch(path, { ...options, headers: { ...headers(key), ...options.headers } });
  if (answer.status === 401 && key === sessionStorage.getItem(STORED)) {  // a late refusal of an earlier key says nothing of this one
    sessionStorage.removeItem(STORED);
    by("login").hidden = false;
    by("key").focus();
  }
  return answer;
};
const json = async (path, options) => {
  const answer = await ask(path, options);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok && !content.rows) throw new Refused(content.detail ? [].concat(content.detail).map(one => one.msg ?? one).join("; ") : `status ${answer.status}`);
  return content;
};
const post = (path, content) => json(path, { method: "POST", body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });
const tell = error => {
  by("problem").textContent = error instanceof Refused ? error.message : "The server does not answer. Does it still run?";
  by("problem").hidden = by("login").hidden === false;
};
const clear = () => { by("problem").hidden = true; };
const picture = (img, path) => {  // with a key, which only a header carries, a picture is fetched by the script
  if (!sessionStorage.getItem(STORED) || /^(blob|data):/.test(path)) img.src = path;
  else ask(path).then(answer => (answer.ok ? answer.blob() : null)).then(blob => {
    if (!blob) return;
    img.addEventListener("load", () => URL.revokeObjectURL(img.src), { once: true });
    img.src = URL.createObjectURL(blob);
  });
  return img;
};

// Words ---------------------------------------------------------------------------------------------------------------

const number = (value, digits = 4) => {
  if (value === null || value === undefined) return "–";
  if (value && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7)) return value.toExponential(digits - 1);
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
};
const percent = rate => `${number(100 * rate, 2)} %`;
const upper = text => text.charAt(0).toUpperCase() + text.slice(1);
const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const said = { good: "good", defect: "defect", unsure: "unsure" };
const reviewWords = (verdict, flagged) => ({ good: flagged ? "false alarm" : "good", defect: flagged ? "true defect" : "missed defect", unsure: "unsure" })[verdict];
const local = time => new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
const brief = time => new Date(time).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
const SOURCES = { api: "API", watch: "watched folder", page: "this page" };

// One judged picture: map, reason, what good looks like, review -------------------------------------------------------

const rectangles = (boxes, kind = "") => boxes.flatMap(([top, left, bottom, right]) => ["", " line"].map(line =>
  s("rect", { class: (kind + line).trim(), x: left, y: top, width: right - left, height: bottom - top })));

class Shown {
  // item: a judgement of the store, or an answer that is not kept, with the URL of its picture and of its map
  constructor(item) {
    this.item = item;
    this.drawn = item.drawn ? item.drawn.map(box => [...box]) : [];
    this.node = h("div", { class: "one" });
    this.build();
  }

  build() {
    const { item } = this, flagged = item.flagged === true || item.flagged === 1, unread = item.verdict === "not read";
    this.flagged = flagged;
    const model = state.models.find(one => one.name === item.model);
    const tiles = [["p-value", number(item.p, 2)], ["score", number(item.score)]];
    if (item.row.p_condition !== undefined && item.row.p_condition !== null) tiles.splice(1, 0, ["p-value of the stated condition", number(item.row.p_condition, 2)]);
    const condition = item.condition && item.condition !== "all" ? item.condition : null;
    this.why = h("ul", {}, (item.why ?? []).slice(1).map(text => h("li", {}, text)));
    const verdict = h("section", { class: `card said${flagged ? " flagged" : ""}${unread ? " unread" : ""}` },
      h("h2", {}, upper(item.verdict)),
      h("p", { class: "id" }, item.id),
      item.row.note ? h("p", {}, `${upper(item.row.note)}.`) : null,
      unread ? h("p", {}, item.row.error) : h("dl", { class: "tiles" }, tiles.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("b", {}, value))))),
      h("p", { class: "small" }, [condition, item.alpha && `false-alarm rate ${number(item.alpha)}`, item.time && local(item.time), SOURCES[item.source],
        model && model.scored_by !== item.scored_by ? "judged by another version of the model" : `model ${item.model}`].filter(Boolean).join(" · ")));
    const parts = [verdict, h("div", { class: "picture" }, unread && !item.pictureURL ? h("p", { class: "card box" }, "There is no picture to show.") : this.stageOf())];
    const explains = model?.explains && item.number, reasons = (item.why ?? []).length;
    if (!unread && (reasons || explains)) parts.push(h("section", { class: "card box reason" }, h("h3", {}, "Reasons"), this.why,
      reasons || !explains ? null : this.ask = h("button", { type: "button", onclick: () => this.explain() }, "Why?")));
    if (item.number && !unread) parts.push(this.reviewer());
    if (model && item.reference !== null && item.reference !== undefined && !unread) {
      const posed = typeof item.row.pose === "number";
      parts.splice(2, 0, h("section", { class: "card box good-one" }, h("h3", {}, "What good looks like"), h("figure", {},
        picture(h("img", { alt: "Mean of normal images" }), `page/normal/${encodeURIComponent(item.model)}/${item.reference}`),
        h("figcaption", { class: "small" }, `The mean of normal images${condition ? ` with ${condition}` : ""}, which this picture is compared with${posed ? ", turned and cropped to the pose that all parts are compared in" : ""}.`)),
        posed && item.number ? h("figure", {}, picture(h("img", { alt: "This picture as it is compared" }), `page/judged/${item.number}/compared`),
          h("figcaption", { class: "small" }, "This picture as it is compared: in the same pose, where a part was found.")) : null));
    }
    this.node.classList.toggle("compared", parts.length > 4);
    this.node.replaceChildren(...parts);
  }

  stageOf() {
    const { item } = this, [height, width] = item.size ?? [item.height ?? 1, item.width ?? 1];
    this.svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.regionWords() });
    const image = h("img", { alt: `Picture ${item.id}`, class: Math.max(height, width) <= 96 ? "pixelated" : null });
    picture(image, item.pictureURL ?? `page/judged/${item.number}/picture`);
    const layers = [image];
    if (item.mapURL !== null) {
      const map = h("img", { class: "map", alt: "" });
      map.addEventListener("error", () => map.remove());
      layers.push(picture(map, item.mapURL ?? `page/judged/${item.number}/map`));
    }
    this.stage = h("div", { class: "stage" }, layers, this.svg);
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.stage.style.maxWidth = `calc(74vh * ${width / height})`;
    this.draw();
    if (item.number) this.listen(width, height);
    const opacity = h("input", { type: "range", min: 0, max: 100, value: localStorage.getItem("map") ?? 80, oninput: event => dim(event.target.value) });
    return [this.stage, h("p", { class: "tools" },
      item.mapURL !== null && h("label", {}, "Map", opacity),
      (item.regions ?? []).length > 0 && h("label", {}, h("input", { type: "checkbox", checked: true, onchange: event => this.stage.classList.toggle("plain", !event.target.checked) }), "found regions"),
      item.number && item.verdict !== "not read" && [
        (item.regions ?? []).length > 0 && h("button", { type: "button", onclick: () => this.keepFound() }, "Keep found regions ", h("kbd", {}, "k")),
        this.mode = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggle() }, "Draw a region"),
        h("button", { type: "button", onclick: () => { this.drawn = []; this.draw(); } }, "Remove drawn"),
      ]), item.mapURL !== null && item.legend && h("p", { class: "legend small" }, h("span", { class: "heat", "aria-hidden": "true" }), item.legend),
      item.number && state.models.find(one => one.name === item.model)?.reconstructs && this.latents()];
  }

  latents() {
    const image = h("img", { alt: "What the model decodes", class: "pixelated" }), sliders = h("div", { class: "sliders" }), moved = new Map(), last = latest();
    const decode = async () => {
      const z = [...moved].map(([dim, position]) => `${dim}:${position}`).join(",");
      try {
        const found = await last(json(`page/judged/${this.item.number}/latents?z=${z}`));
        if (found) image.src = found.picture;
        return found;
      } catch (error) { tell(error); }
    };
    const begin = async () => {
      moved.clear();
      const found = await decode();
      if (!found) return;
      sliders.replaceChildren(...found.dims.map(({ dim, z, kl }) => {
        const reach = Math.max(4, Math.ceil(Math.abs(z))), said = h("output", {}, number(z, 2));
        const slide = event => { moved.set(dim, event.target.value); said.textContent = number(Number(event.target.value), 2); decode(); };
        return h("label", {}, `z${dim}, ${number(kl, 2)} nats`, h("input", { type: "range", min: -reach, max: reach, step: .05, value: z, oninput: slide }), said);
      }));
    };
    return h("details", { class: "card box latents", ontoggle: event => event.target.open && !image.src && begin() }, h("summary", {}, "Latent dimensions"),
      h("div", { class: "walk" }, image, h("div", {}, sliders, h("button", { type: "button", onclick: begin }, "As in the picture"))),
      h("p", { class: "small" }, "Left: what the VAE decodes. A slider moves one dimension of its code; those that say most about this picture come first. Positions are in standard deviations of the prior, where most normal pictures lie within ±2."));
  }

  regionWords() {
    const box = ([top, left, bottom, right]) => `rows ${top} to ${bottom}, columns ${left} to ${right}`;
    const words = [["found", this.item.regions ?? []], ["drawn", this.drawn]].filter(([, some]) => some.length);
    return words.map(([kind, some]) => `${plural(some.length, "region")} ${kind}: ${some.map(box).join("; ")}`).join(". ") || "No region";
  }

  draw() {
    this.svg.replaceChildren(...rectangles(this.item.regions ?? []), ...rectangles(this.drawn, "drawn"));
    this.svg.setAttribute("aria-label", this.regionWords());
  }

  toggle() {
    const on = this.stage.classList.toggle("touch");
    this.mode.setAttribute("aria-pressed", on);
  }

  keepFound() {
    this.drawn = this.item.regions.map(box => [...box]);
    this.draw();
  }

  listen(width, height) {
    let start = null;
    const at = event => {
      const box = this.svg.getBoundingClientRect();
      const share = (value, size, most) => Math.min(most, Math.max(0, Math.round(value / size * most)));
      return [share(event.clientY - box.top, box.height, height), share(event.clientX - box.left, box.width, width)];
    };
    const box = end => [Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])];
    this.svg.addEventListener("pointerdown", event => {
      if (event.button !== 0 || (event.pointerType !== "mouse" && !this.stage.classList.contains("touch"))) return;
      start = at(event);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointermove", event => {
      if (!start) return;
      this.svg.replaceChildren(...rectangles(this.item.regions ?? []), ...rectangles([...this.drawn, box(at(event))], "drawn"));
    });
    const end = event => {
      if (!start) return;
      const [top, left, bottom, right] = box(at(event)), holds = one => one[0] <= top && one[1] <= left && top < one[2] && left < one[3];
      if (bottom > top + 1 && right > left + 1) this.drawn.push([top, left, bottom, right]);
      else if (this.drawn.some(holds)) this.drawn.splice(this.drawn.findIndex(holds), 1);
      else this.drawn.push(...(this.item.regions ?? []).filter(holds));
      start = null;
      this.draw();
    };
    this.svg.addEventListener("pointerup", end);
    this.svg.addEventListener("pointercancel", () => { start = null; this.draw(); });
  }

  reviewer() {
    const { item, flagged } = this;
    const words = flagged ? ["False alarm", "True defect", "Unsure"] : ["Good", "Missed defect", "Unsure"];
    this.kind = h("input", { list: "kinds", maxlength: 60, value: item.kind ?? "", placeholder: "scratch", autocomplete: "off" });
    this.note = h("textarea", { maxlength: 2000 }, item.note ?? "");
    this.who = h("input", { maxlength: 100, value: localStorage.getItem(WHO) ?? "", autocomplete: "name", onchange: event => localStorage.setItem(WHO, event.target.value) });
    const button = (verdict, word, key) => h("button", { type: "button", "data-verdict": verdict, "aria-pressed": String(item.review === verdict), onclick: () => this.review(verdict) }, word, " ", h("kbd", {}, key));
    const verdicts = [["good", words[0], "f"], ["defect", words[1], "d"], ["unsure", words[2], "u"]].map(one => button(...one));
    const latest = item.review ? h("p", { class: "reviewed" },
      h("b", {}, upper(reviewWords(item.review, flagged))), item.kind ? `: ${item.kind}` : "", item.who ? `, by ${item.who}` : "", ` `,
      h("button", { type: "button", onclick: () => this.review(null) }, "Undo ", h("kbd", {}, "z"))) : null;
    const past = item.history?.length ? h("details", {}, h("summary", {}, `History (${item.history.length})`), h("ul", {}, item.history.map(one =>
      h("li", {}, `${local(one.time)}: ${one.verdict ? reviewWords(one.verdict, flagged) : "taken back"}${one.kind ? `, ${one.kind}` : ""}${one.who ? `, by ${one.who}` : ""}${one.note ? ` — ${one.note}` : ""}`)))) : null;
    return h("section", { class: "card box review" }, h("h3", {}, "Review"), h("div", { class: "say" },
      h("div", { role: "status" }, latest), h("div", { class: "verdicts" }, verdicts),
      h("div", { class: "two" }, h("label", {}, "Kind of defect", this.kind), h("label", {}, "Your name", this.who)),
      h("label", {}, "Note", this.note),
      h("p", { class: "small" }, "Drag over the picture to draw where the defect is; press a found region to keep it, a drawn one to remove it. Kind, note and regions are kept with the verdict that you press next."),
      past));
  }

  review(verdict) {
    const content = { verdict, who: this.who.value, kind: verdict === "defect" ? this.kind.value : "", note: verdict ? this.note.value : "", regions: verdict === "defect" ? this.drawn : [] };
    // One after the other, so that of two quick verdicts the second counts.
    this.sending = (this.sending ?? Promise.resolve()).then(() => this.send(content));
    return this.sending;
  }

  async send(content) {
    try {
      const item = await post(`page/judged/${this.item.number}/review`, content);
      clear();
      if (content.kind && !state.kinds.includes(content.kind)) listKinds([...state.kinds, content.kind]);
      this.take(item);
    } catch (error) { tell(error); }
  }

  take(item) {
    const focused = document.activeElement?.dataset?.verdict;
    Object.assign(this.item, item);
    if (!item.review) Object.assign(this.item, { kind: null, note: null });
    this.drawn = (item.drawn ?? []).map(box => [...box]);
    this.node.querySelector(".say").closest("section").replaceWith(this.reviewer());
    this.draw();
    if (focused) this.node.querySelector(`[data-verdict="${focused}"]`).focus();
  }

  async explain() {
    this.ask.disabled = true;
    this.ask.textContent = "One moment …";
    try {
      const { why, scored_by } = await post(`page/judged/${this.item.number}/why`, {});
      const other = scored_by === this.item.scored_by ? [] : [h("li", {}, "The version in use now says:"), h("li", {}, why[0])];
      this.why.replaceChildren(...other, ...why.slice(1).map(text => h("li", {}, text)));
      this.ask.remove();
    } catch (error) { this.ask.textContent = `No reason: ${error.message}`; }
  }

  key(key) {
    if (!this.item.number || this.item.verdict === "not read") return false;
    const verdicts = { f: "good", d: "defect", u: "unsure" };
    if (verdicts[key]) this.review(verdicts[key]);
    else if (key === "z" && this.item.review) this.review(null);
    else if (key === "k" && (this.item.regions ?? []).length) this.keepFound();
    else return false;
    return true;
  }
}

const dim = value => {
  localStorage.setItem("map", value);
  document.documentElement.style.setProperty("--map", value / 100);
};
const listKinds = kinds => {
  state.kinds = kinds;
  by("kinds")?.remove();
  document.body.append(h("datalist", { id: "kinds" }, kinds.map(kind => h("option", { value: kind }))));
};

// Judge ---------------------------------------------------------------------------------------------------------------

const chosenModel = () => state.models.find(one => one.name === by("asked").elements.model?.value) ?? state.models[0];
const buildAsked = () => {
  const form = by("asked"), model = chosenModel(), several = state.models.length > 1;
  const chosen = Object.fromEntries([...form.elements].map(field => [field.name, field.value]));
  const values = Object.entries(model.conditions).map(([name, known]) => {
    const added = model.groups.map(group => group[name]).filter(Boolean);
    const field = Array.isArray(known)
      ? h("select", { name: `condition ${name}` }, h("option", { value: "" }, "unknown"), [...new Set([...known, ...added])].map(value => h("option", {}, value)))
      : h("input", { name: `condition ${name}`, type: "number", step: "any", placeholder: "unknown" });
    return h("label", {}, name, field);
  });
  const models = several && h("label", {}, "Model", h("select", { name: "model", onchange: buildAsked }, state.models.map(one => h("option", { selected: one === model }, one.name))));
  form.replaceChildren(...[models, ...values].filter(Boolean));
  for (const field of form.elements) {  // what was chosen stays so when a new version comes into use
    if (field.name === "model" || !chosen[field.name]) continue;
    field.value = chosen[field.name];
    if (field.selectedIndex < 0) field.selectedIndex = 0;
  }
  form.hidden = !several && !values.length;
};
const conditionsAsked = () => {
  const found = {};
  let unknown = false;
  for (const [name, known] of Object.entries(chosenModel().conditions)) {
    const value = by("asked").elements[`condition ${name}`].value;
    if (value === "") unknown = true;
    else found[name] = Array.isArray(known) ? value : Number(value);
  }
  return [found, unknown];
};
const answerItem = (row, content, file) => ({
  ...row.view, ...row, row, id: row.id, alpha: content.alpha, number: row.view?.number, model: content.model, scored_by: content.scored_by,
  flagged: row.is_anomalous, p: row.p_value, score: row.anomaly_score, verdict: row.view?.verdict ?? "not read", source: "page",
  regions: row.view?.regions ?? [], reference: row.view?.reference, size: row.view?.size, why: row.explanation?.sentences ?? [],
  pictureURL: row.view?.number || row.error ? undefined : URL.createObjectURL(file),
  mapURL: row.view?.number ? undefined : row.view?.map ? `data:image/png;base64,${row.view.map}` : null,
});
const judge = async files => {
  if (!files.length) return;
  location.hash = "judge";
  if (!state.models.length) { // not loaded yet, or a key is asked for first
    state.waiting = files;
    return;
  }
  const [conditions, unknown] = conditionsAsked(), form = new FormData();
  for (const file of files) form.append("images", file, file.name || "picture.png");
  form.append("model", chosenModel().name);
  if (Object.keys(conditions).length) form.append("conditions", JSON.stringify(conditions));
  if (unknown) form.append("unknown", "infer");
  by("busy").textContent = `Judging ${plural(files.length, "picture")} …`;
  by("answer").setAttribute("aria-busy", "true");
  try {
    const content = await latestJudged(json("page/judge", { method: "POST", body: form }));
    if (!content) return;
    clear();
    state.answers = content.rows.map((row, i) => answerItem(row, content, files[i]));
    by("answers").replaceChildren(...state.answers.map((item, i) => {
      const image = h("img", { alt: "" });
      if (item.number && item.size) picture(image, `page/judged/${item.number}/thumbnail`);
      else image.src = URL.createObjectURL(files[i]);
      return h("button", { type: "button", onclick: () => showAnswer(i) }, image, h("span", {}, `${upper(item.verdict)}: ${item.id}`));
    }));
    by("answers").hidden = state.answers.length < 2;
    const alarms = state.answers.filter(item => item.flagged).length;
    const unread = state.answers.filter(item => item.verdict === "not read").length;
    const judged = `${plural(state.answers.length - unread, "picture")} judged, ${alarms} anomalous${unread ? `; ${unread} could not be read` : ""}.`;
    by("busy").textContent = state.answers.length > 1 ? judged : `${unread ? "Not judged" : "Judged"}: ${state.answers[0].verdict}.`;
    showAnswer(0);
  } catch (error) {
    by("busy").textContent = "";
    tell(error);
  }
  by("answer").removeAttribute("aria-busy");
};
const showAnswer = i => {
  state.shown = new Shown(state.answers[i]);
  by("answer").replaceChildren(state.shown.node);
  [...by("answers").children].forEach((node, k) => node.setAttribute("aria-pressed", k === i));
};
const camera = {
  async start() {
    try {
      by("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      by("live").hidden = false;
    } catch (error) { tell(new Refused(`The camera cannot be used: ${error.message}`)); }
  },
  stop() {
    by("video").srcObject?.getTracks().forEach(track => track.stop());
    by("video").srcObject = null;
    by("live").hidden = true;
  },
  take() {
    const video = by("video"), canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob(blob => judge([new File([blob], `camera ${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.png`)]), "image/png");
  },
};

// Gallery -------------------------------------------------------------------------------------------------------------

const FIRST = 48;
const since = hours => (hours ? new Date(Date.now() - 3600e3 * hours).toISOString() : "");
const filters = form => {
  const given = Object.fromEntries(new FormData(form));
  const { hours, ...rest } = given;
  return new URLSearchParams(Object.entries({ ...rest, since: since(hours) }).filter(([, value]) => value));
};
const cardOf = item => {
  const picked = item.height
    ? [picture(h("img", { alt: "", loading: "lazy", class: Math.max(item.height, item.width) <= 96 ? "pixelated" : null }), `page/judged/${item.number}/thumbnail`)]
    : [h("span", { class: "none" }, "not read")];
  const { verdict } = item;
  const condition = item.condition && item.condition !== "all" ? ` · ${item.condition}` : "";
  return h("figure", { class: `strip${item.flagged ? " is-flagged" : ""}`, "data-number": item.number, "data-review": item.review ?? "" },
    h("button", { type: "button", class: "layers", "aria-label": `Open ${item.id}, ${verdict}`, onclick: () => open(state.items.findIndex(one => one.number === item.number)) }, picked),
    h("figcaption", {}, h("b", { class: "id", title: item.id }, h("bdi", {}, item.id)),
      h("span", { class: "facts" }, "p ", h("b", {}, number(item.p, 2)), condition),
      h("span", { class: `badge${item.flagged ? " flag" : item.verdict === "not read" ? " error" : ""}` }, verdict),
      item.review && h("span", { class: "badge rev" }, reviewWords(item.review, item.flagged))));
};
/** Answers of the latest question alone: undefined where another was asked meanwhile. */
const latest = () => {
  let last = 0;
  return async answer => {
    const own = ++last, found = await answer;
    return own === last ? found : undefined;
  };
};
const latestItems = latest(), latestLine = latest(), latestOpened = latest(), latestJudged = latest();
const load = async (more = false) => {
  const first = more ? state.items.length : 0, most = more ? FIRST : Math.min(480, Math.max(FIRST, state.items.length));
  const query = filters(by("filters"));
  query.set("first", first);
  query.set("most", most);
  const found = await latestItems(json(`page/judged?${query}`));
  if (!found) return;
  clear();
  state.items = more ? [...state.items, ...found.items] : found.items;
  state.total = found.total;
  listKinds(found.kinds);
  const { counts } = found;
  by("total").textContent = counts.judged.toLocaleString("en");
  by("counts").textContent = `${plural(counts.judged, "picture")} kept, ${counts.flagged.toLocaleString("en")} flagged. ${plural(counts.reviewed, "review")}: ` +
    [...["true defect", "false alarm", "missed defect"].map(name => plural(counts[`${name}s`], name)), `${counts.unsure.toLocaleString("en")} unsure`].join(", ") + ".";
  const select = by("filters").elements.condition, value = select.value;
  select.replaceChildren(h("option", { value: "" }, "all"), ...found.conditions.map(one => h("option", { selected: one === value }, one)));
  by("values").hidden = !found.conditions.length;
  by("shown").textContent = `${state.items.length.toLocaleString("en")} of ${found.total.toLocaleString("en")}${state.drawn ?? ""}`;
  by("more").hidden = state.items.length >= found.total;
  const focused = document.activeElement?.closest?.(".wall figure")?.dataset.number;
  const there = new Map([...by("wall").querySelectorAll("figure")].map(node => [`${node.dataset.number} ${node.dataset.review}`, node]));
  const cards = state.items.map(item => there.get(`${item.number} ${item.review ?? ""}`) ?? cardOf(item));
  by("wall").replaceChildren(...(cards.length ? cards : [h("p", { class: "empty" }, counts.judged ? "Nothing is like this." : "Nothing was judged yet. Judge a picture, or send some to /v1/score.")]));
  if (focused) by("wall").querySelector(`[data-number="${focused}"] button`)?.focus();
};
const open = async i => {
  const dialog = by("open");
  if (i < 0) return;
  if (i >= state.items.length && state.items.length < state.total) await load(true);
  if (i >= state.items.length) return;
  try {
    const found = await latestOpened(json(`page/judged/${state.items[i].number}`));
    if (!found) return;
    const shown = new Shown(found);
    state.open = { i, shown, number: shown.item.number };
    dialog.replaceChildren(h("div", { class: "head" },
      h("button", { type: "button", id: "before", disabled: i === 0, onclick: () => step(-1) }, "← Previous"),
      h("button", { type: "button", id: "after", disabled: i + 1 >= state.total, onclick: () => step(1) }, "Next →"),
      h("output", {}, `${i + 1} of ${state.total.toLocaleString("en")}`),
      h("button", { type: "button", onclick: () => dialog.close() }, "Close ", h("kbd", {}, "Esc"))), shown.node);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  } catch (error) { tell(error); }
};
const step = by => {  // by what is open, since the list may have grown at its start
  const at = state.items.findIndex(item => item.number === state.open.number);
  return open((at < 0 ? state.open.i : at) + by);
};

// The line ------------------------------------------------------------------------------------------------------------

let W = 640;
const H = 250, LEFT = 52, RIGHT = 12, TOP = 12, BOTTOM = 34;
const place = (low, high, from, to) => value => from + (value - low) / (high - low || 1) * (to - from);
const frame = (x, y, xs, ys, xlabel) => [
  ys.flatMap(([value, text]) => [s("line", { class: "rule", x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value) }), s("text", { x: LEFT - 7, y: y(value) + 4, "text-anchor": "end" }, text)]),
  xs.map(([value, text], i) => s("text", { x: x(value), y: H - BOTTOM + 17, "text-anchor": i === 0 ? "start" : i === xs.length - 1 ? "end" : "middle" }, text)),
  s("line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: H - BOTTOM, y2: H - BOTTOM }),
  s("text", { x: (LEFT + W - RIGHT) / 2, y: H - 1, "text-anchor": "middle" }, xlabel),
];
const chart = (title, text, alt, children, extra = []) => h("figure", { class: "card chart" }, h("h2", {}, title), h("p", {}, text),
  s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": alt }, children), extra);
const path = points => `M${points.map(point => point.map(value => value.toFixed(1)).join(" ")).join("L")}`;
const nice = most => [1, 2, 2.5, 5, 10].map(step => step * 10 ** Math.floor(Math.log10(most || 1))).find(step => step >= most) ?? most;
const histogram = ({ p_values: bars, count, alpha }) => {
  const most = nice(Math.max(...bars, count / bars.length)), even = count / bars.length;
  const x = place(0, 1, LEFT, W - RIGHT), y = place(0, most, H - BOTTOM, TOP), step = 1 / bars.length;
  const drawn = bars.map((n, i) => s("rect", { class: `bars${(i + 1) * step <= alpha + 1e-9 ? " low" : ""}`, x: x(i * step) + 1, y: y(n), width: x(step) - LEFT - 2, height: H - BOTTOM - y(n) }));
  const text = "Of normal images every bar is about as high as the dashed line. A high bar at the left: anomalies, or drift.";
  return chart("p-values", text, `Histogram of ${plural(count, "p-value")}; ${bars[0]} below ${number(step)}, ${number(even, 3)} expected of normal images`,
    [frame(x, y, [0, .25, .5, .75, 1].map(v => [v, number(v)]), [0, most / 2, most].map(v => [v, number(v)]), "p-value"), drawn,
      s("line", { class: "limit", x1: LEFT, x2: W - RIGHT, y1: y(even), y2: y(even) })]);
};
const rates = ({ rates: spans, alpha, flagged, count }) => {
  const most = nice(Math.max(2 * alpha, ...spans.map(one => one.rate))), last = spans.length - 1;
  const x = place(0, Math.max(1, spans.length), LEFT, W - RIGHT), y = place(0, most, H - BOTTOM, TOP);
  const points = spans.flatMap((one, i) => [[x(i), y(one.rate)], [x(i + 1), y(one.rate)]]);
  const ends = spans.length ? [[0, brief(spans[0].since)], [spans.length, brief(spans[last].until)]] : [];
  return chart("Alarm rate", `${flagged.toLocaleString("en")} of ${plural(count, "picture")} flagged, ${percent(flagged / (count || 1))}. The dashed line is the false-alarm rate α = ${number(alpha)}.`,
    `Share of flagged pictures over time, in ${plural(spans.length, "span")}; the last ${percent(spans[last]?.rate ?? 0)}`,
    [frame(x, y, ends, [0, most / 2, most].map(v => [v, percent(v)]), `each step: about ${plural(spans[0]?.count ?? 0, "picture")}`), points.length && s("path", { d: path(points) }),
      s("line", { class: "limit", x1: LEFT, x2: W - RIGHT, y1: y(alpha), y2: y(alpha) })]);
};
const drift = ({ drift: one }) => {
  const groups = Object.entries(one.groups), all = groups.flatMap(([, points]) => points);
  const low = Math.min(-1, ...all.map(([, v]) => v)), high = Math.max(one.threshold * 1.15, ...all.map(([, v]) => v));
  const x = place(0, Math.max(1, one.count), LEFT, W - RIGHT), y = place(low, high, H - BOTTOM, TOP), power = v => (v === 0 ? "1" : `10${[...String(v)].map(c => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`);
  const step = Math.max(1, Math.ceil((high - low) / 6)), ticks = [];
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) ticks.push([v, power(v)]);
  const alarm = one.alarm && s("rect", { class: "alarm", x: x(one.alarm.since), width: Math.max(2, x(one.alarm.at) - x(one.alarm.since)), y: TOP, height: H - BOTTOM - TOP });
  const text = one.alarm ? `Alarm: ${one.alarm.text}${groups.length > 1 ? `, in ${one.alarm.group}` : ""}.` : `Quiet. The evidence is ${number(10 ** one.evidence, 2)}; at ${number(10 ** one.threshold)} the alarm is raised.`;
  const figure = chart("Drift", text, `Evidence of drift over ${plural(one.count, "picture")}. ${text}`,
    [frame(x, y, [[0, "0"], [one.count, one.count.toLocaleString("en")]], ticks, "picture of the stream"), alarm,
      groups.map(([, points], i) => points.length && s("path", { class: `s${i}`, d: path([[0, 0], ...points].map(([n, v]) => [x(n), y(v)])) })),
      s("line", { class: "limit", x1: LEFT, x2: W - RIGHT, y1: y(one.threshold), y2: y(one.threshold) })],
    [groups.length > 1 && h("p", { class: "names" }, groups.map(([name], i) => h("span", {}, s("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" }, s("path", { class: `s${i}`, d: "M0 4L20 4" })), name))),
      h("p", { class: "small" }, `${upper(one.reference.replaceAll("`", ""))}. While nothing changes, an alarm is ever raised with probability 1 / ${number(10 ** one.threshold)} at most.`)]);
  figure.classList.toggle("alarmed", Boolean(one.alarm));
  return figure;
};
const loadLine = async () => {
  const found = await latestLine(json(`page/line?${filters(by("of"))}`));
  if (!found) return;
  clear();
  W = Math.min(640, Math.max(280, by("charts").clientWidth - 40));  // so that text is as large as around
  by("charts").replaceChildren(...(found.count ? [histogram(found), rates(found), found.drift.groups && drift(found)].filter(Boolean)
    : [h("p", { class: "empty" }, "This version of the model has judged nothing yet.")]));
};

// Models --------------------------------------------------------------------------------------------------------------

const learner = ({ name, reviews: { new: unlearned, running, error, learned } }) => {
  const act = what => async event => {
    event.target.disabled = true;
    try {
      await post(`page/models/${encodeURIComponent(name)}/${what}`, {});
      await loadModels();
    } catch (refusal) { event.target.disabled = false; tell(refusal); }
  };
  const status = running ? "Learning. This takes minutes; the version in use goes on judging." : error ? `Not learned: ${error}.` :
    unlearned ? `${plural(unlearned, "review")} since this version.` : "This version knows all reviews.";
  const cells = row => [row.images, row.before, row.after, row.held_out ?? "–"].map(value => h("td", {}, String(value)));
  return h("div", { class: "learn", role: "group", "aria-label": `Reviews of ${name}` }, h("h3", {}, "Reviews"),
    h("p", { role: "status" }, status),
    h("p", { class: "row" },
      (unlearned > 0 || running) && h("button", { type: "button", class: "first", disabled: running, onclick: act("learn") }, running ? "Learning …" : `Learn from ${plural(unlearned, "review")}`),
      learned && h("button", { type: "button", disabled: running, onclick: act("rollback") }, "Back to the former version")),
    learned && [h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Reviewed images before and after" }, h("table", {}, h("caption", { class: "small" }, "Flagged among the images that this version learned from"),
      h("thead", {}, h("tr", {}, ["", "images", "flagged before", "flagged after", "flagged if held out"].map(text => h("th", { scope: "col" }, text)))),
      h("tbody", {}, learned.rows.map(row => h("tr", {}, h("th", { scope: "row" }, row.what), cells(row)))))),
      h("ul", { class: "small" }, learned.sentences.map(text => h("li", {}, text)))]);
};
const drawSample = async () => {
  const model = state.models.length === 1 ? state.models[0].name : by("of").elements.model.value;
  try {
    const { drawn } = await post("page/sample", { model, images: 20 });
    by("filters").elements.review.value = "sample";
    by("filters").elements.order.value = "sampled";
    state.items = [];
    state.drawn = drawn ? `, ${drawn} drawn now` : ", no more to draw from";
    await load();
  } catch (error) { tell(error); }
};
const loadModels = async () => {
  const { models, keeps, folder } = await json("page/models");
  clear();
  Object.assign(state, { models, keeps });
  by("where").textContent = keeps ? `Pictures are kept in ${folder}` : "Nothing is kept";
  for (const view of ["gallery", "line"]) document.querySelector(`nav a[href="#${view}"]`).hidden = !keeps;
  by("cards").replaceChildren(...models.map(one => {
    const conditions = Object.entries(one.conditions).map(([name, known]) => `${name}: ${Array.isArray(known) ? known.join(", ") : known}`).join("; ") || "none";
    const facts = { version: one.version ?? "–", fingerprint: one.scored_by, loaded: local(one.loaded), recipe: `${one.representation}, ${one.model}, ${one.score}`, "false-alarm rate α": number(one.alpha), "calibration items": number(one.calibration_items, 8), conditions, ...(one.learns ? {} : { "exported file": "judges alone; explanations and learning from reviews need the model folder" }) };
    return h("section", { class: "card box" }, h("h2", {}, one.name), h("table", { class: "pairs" }, h("tbody", {}, Object.entries(facts).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value))))),
      one.reviews && learner(one), h("details", {}, h("summary", {}, "Model card"), h("pre", { tabindex: 0 }, one.card)));
  }));
  clearTimeout(state.learning);
  if (models.some(one => one.reviews?.running)) state.learning = setTimeout(() => loadModels().catch(tell), 1000);
  by("of").elements.model.replaceChildren(...models.map(one => h("option", {}, one.name)));
  by("of-model").hidden = models.length < 2;
};

// Everything together -------------------------------------------------------------------------------------------------

const VIEWS = ["judge", "gallery", "line", "models"];
const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "judge");
const show = async () => {
  const name = view();
  for (const one of VIEWS) by(one).hidden = one !== name || !state.models.length;
  for (const link of document.querySelectorAll("nav a")) link.toggleAttribute("aria-current", link.hash === `#${name}`);
  try {
    if (name === "gallery" && state.keeps) await load();
    if (name === "line" && state.keeps) await loadLine();
  } catch (error) { tell(error); }
};
const poll = async () => {
  if (document.hidden || !state.models.length || !by("login").hidden) return;
  try {
    const found = await json("page/state"), stamp = String(found.stamp), marks = String(found.models);
    if (state.marks && marks !== state.marks) { await loadModels(); buildAsked(); }
    if (stamp !== state.stamp || marks !== state.marks) {
      const first = !state.stamp;
      Object.assign(state, { stamp, marks });
      if (state.keeps && !(first && view() === "gallery")) await (view() === "line" ? loadLine() : load());
    }
    clear();
  } catch (error) { tell(error); }
};
const start = async () => {
  try {
    await loadModels();
    by("login").hidden = true;
    buildAsked();
    await show();
    const files = state.waiting ?? [];
    state.waiting = null;
    judge(files);
    await poll();
  } catch (error) { tell(error); }
};

by("login").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(STORED, by("key").value);
  by("key").value = "";
  start();
});
for (const id of ["files", "shot"]) by(id).addEventListener("change", event => { judge([...event.target.files]); event.target.value = ""; });
by("camera").hidden = !navigator.mediaDevices?.getUserMedia;
by("capture").hidden = !matchMedia("(pointer: coarse)").matches;
by("camera").addEventListener("click", camera.start);
by("stop").addEventListener("click", camera.stop);
by("take").addEventListener("click", camera.take);
for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, event => {
  if (kind !== "dragleave") event.preventDefault();
  by("drop").classList.toggle("over", kind === "dragover");
  if (kind === "drop") judge([...event.dataTransfer.files]);
});
addEventListener("paste", event => { if (event.clipboardData.files.length) judge([...event.clipboardData.files]); });
for (const form of [by("filters"), by("of"), by("asked")]) form.addEventListener("submit", event => event.preventDefault());
by("filters").addEventListener("change", () => { state.items = []; state.drawn = ""; load().catch(tell); });
by("of").addEventListener("change", () => loadLine().catch(tell));
by("draw").addEventListener("click", drawSample);
by("more").addEventListener("click", () => load(true).catch(tell));
by("open").addEventListener("close", () => {
  by("wall").querySelector(`[data-number="${state.open.number}"] button`)?.focus();
  latestOpened(null);  // what was asked for is not opened any more
  state.open = null;
  load().catch(tell);
});
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select")) return;
  if (state.open && ["ArrowLeft", "ArrowRight"].includes(event.key) && event.target.type !== "range") {
    event.preventDefault();
    step(event.key === "ArrowLeft" ? -1 : 1);
    return;
  }
  const shown = state.open ? state.open.shown : view() === "judge" ? state.shown : null;
  if (shown?.key(event.key)) event.preventDefault();
});
addEventListener("hashchange", show);
setInterval(poll, 2000);
dim(localStorage.getItem("map") ?? 80);
start();
