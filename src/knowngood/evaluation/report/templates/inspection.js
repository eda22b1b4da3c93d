(() => {
  "use strict";
  const by = id => document.getElementById(id);
  const wall = by("wall"), cards = [...wall.children], form = by("filters"), large = by("large"), room = by("room");
  const value = id => by(id) ? by(id).value : "";
  const orders = {
    p: (a, b) => a.dataset.p - b.dataset.p || b.dataset.score - a.dataset.score,
    score: (a, b) => b.dataset.score - a.dataset.score,
    id: (a, b) => a.dataset.id.localeCompare(b.dataset.id, undefined, { numeric: true }),
  };
  const filter = () => {
    const words = value("find").toLowerCase(), verdict = value("verdict"), condition = value("condition");
    let n = 0;
    for (const card of cards) {
      const { id, verdict: own, kind, condition: of } = card.dataset;
      const keep = (!words || id.toLowerCase().includes(words)) && (!verdict || verdict === own || verdict === kind)
        && (!condition || condition === of);
      card.hidden = !keep;
      n += keep;
    }
    by("shown").textContent = `${n.toLocaleString("en")} of ${cards.length.toLocaleString("en")}`;
  };
  const sort = () => wall.append(...cards.sort(orders[value("order")]));
  const dim = () => document.documentElement.style.setProperty("--map", value("opacity") / 100);
  const plain = on => { for (const one of [wall, room]) one.classList.toggle("plain", on); };
  for (const id of ["find", "verdict", "condition"]) if (by(id)) by(id).addEventListener("input", filter);
  by("order").addEventListener("change", sort);
  if (by("opacity")) { by("opacity").addEventListener("input", dim); dim(); }
  if (by("boxes")) by("boxes").addEventListener("change", event => plain(!event.target.checked));

  // One picture as large as the window allows, with those before and after it as they are filtered and ordered.
  let open = null;
  const visible = () => cards.filter(card => !card.hidden);
  const show = card => {
    open = card;
    const some = visible(), i = some.indexOf(card), layers = card.querySelector(".layers").cloneNode(true);
    const figure = document.createElement("figure");
    const [width, height] = layers.style.aspectRatio.split("/").map(Number);
    figure.style.setProperty("--ratio", width / height);
    layers.setAttribute("aria-label", "Make small again");
    figure.append(layers, card.querySelector("figcaption").cloneNode(true));
    for (const why of figure.querySelectorAll("details")) why.open = true;
    room.replaceChildren(figure);
    by("before").disabled = i === 0;
    by("after").disabled = i === some.length - 1;
    by("place").textContent = `${(i + 1).toLocaleString("en")} of ${some.length.toLocaleString("en")}`;
    if (!large.open) large.showModal();
    large.scrollTop = 0;
  };
  const step = by => {
    const some = visible(), next = some[some.indexOf(open) + by];
    if (next) show(next);
  };
  wall.addEventListener("click", event => { if (event.target.closest(".layers")) show(event.target.closest("figure")); });
  room.addEventListener("click", event => { if (event.target.closest(".layers")) large.close(); });
  by("before").addEventListener("click", () => step(-1));
  by("after").addEventListener("click", () => step(1));
  by("close").addEventListener("click", () => large.close());
  large.addEventListener("close", () => open.querySelector(".layers").focus());
  large.addEventListener("keydown", event => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (way && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); step(way); }
  });
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  sort();
  filter();
})();
