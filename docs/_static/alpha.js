/* The calculator of the page on alpha: plain JavaScript, no library. */
(function () {
  "use strict";
  const form = document.getElementById("alpha-calculator");
  if (!form) return;
  const value = (id) => Number(document.getElementById(id).value);

  // Standard normal distribution: the error function by Abramowitz and Stegun 7.1.26 (error < 1.5e-7), its inverse by bisection.
  function phi(x) {
    const t = 1 / (1 + 0.3275911 * Math.abs(x) / Math.SQRT2);
    const poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    const erf = 1 - poly * Math.exp(-x * x / 2);
    return 0.5 * (1 + (x < 0 ? -erf : erf));
  }
  function quantile(p) {
    let low = -9, high = 9;
    for (let i = 0; i < 60; i++) {
      const middle = (low + high) / 2;
      if (phi(middle) < p) low = middle; else high = middle;
    }
    return (low + high) / 2;
  }

  function update() {
    const q = value("c-q") / 1000, miss = value("c-m"), alarm = value("c-a"), auroc = value("c-auc"), n = value("c-n");
    const out = document.getElementById("c-out"), plot = document.getElementById("c-plot");
    if (!(q > 0 && q < 1 && miss >= 0 && alarm >= 0 && auroc >= 0.5 && auroc < 1 && n > 0)) {
      out.textContent = "Give numbers: a share between 0 and 1,000, costs of 0 or more, an AUROC from 0.5 to below 1.";
      return;
    }
    const distance = Math.SQRT2 * quantile(auroc), steps = 240, points = [];
    for (let i = 0; i <= steps; i++) {
      const alpha = Math.pow(10, -4 + (4 + Math.log10(0.5)) * i / steps);
      const detected = phi(distance + quantile(alpha));
      points.push({ alpha, detected, cost: n * (q * (1 - detected) * miss + (1 - q) * alpha * alarm) });
    }
    const best = points.reduce((a, b) => (b.cost < a.cost ? b : a));
    const top = Math.max(...points.map((one) => one.cost)) || 1;
    const x = (alpha) => 40 + 580 * (Math.log10(alpha) + 4) / (4 + Math.log10(0.5)), y = (cost) => 170 - 150 * cost / top;
    const line = points.map((one, i) => `${i ? "L" : "M"}${x(one.alpha).toFixed(1)} ${y(one.cost).toFixed(1)}`).join("");
    const ticks = [0.0001, 0.001, 0.01, 0.1, 0.5];
    plot.innerHTML =
      `<line x1="40" y1="170" x2="620" y2="170" stroke="currentColor" opacity=".4"/>` +
      ticks.map((a) => `<text x="${x(a)}" y="188" font-size="12" text-anchor="middle" fill="currentColor">${a}</text>`).join("") +
      `<text x="40" y="14" font-size="12" fill="currentColor">cost a day, by α</text>` +
      `<path d="${line}" fill="none" stroke="#0072b2" stroke-width="2.5"/>` +
      `<circle cx="${x(best.alpha)}" cy="${y(best.cost)}" r="5" fill="#d55e00"/>`;
    const percent = (share) => (100 * share).toPrecision(2) + " %";
    const round = (number) => Math.round(number).toLocaleString("en");
    out.textContent = `Cheapest: α = ${best.alpha.toPrecision(2)}. It detects ${percent(best.detected)} of the defects, ` +
      `with ${round(n * (1 - q) * best.alpha)} false alarms and ${(n * q * (1 - best.detected)).toPrecision(2)} misses a day, ` +
      `at a cost of ${round(best.cost)} a day. It needs at least ${round(Math.ceil(1 / best.alpha) - 1)} calibration images.`;
  }
  form.addEventListener("input", update);
  update();
})();
