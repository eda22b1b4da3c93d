(() => {
  "use strict";
  const by = id => document.getElementById(id);
  const wall = by("wall"), cards = [...wall.children], form = by("filters");
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
  for (const id of ["find", "verdict", "condition"]) if (by(id)) by(id).addEventListener("input", filter);
  by("order").addEventListener("change", sort);
  if (by("opacity")) { by("opacity").addEventListener("input", dim); dim(); }
  if (by("boxes")) by("boxes").addEventListener("change", event => wall.classList.toggle("plain", !event.target.checked));
  wall.addEventListener("click", event => {
    const layers = event.target.closest(".layers");
    if (layers) layers.closest("figure").classList.toggle("enlarged");
  });
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  sort();
  filter();
})();
