// Pointing at a map shows the frame, at a similarity its two times, at a curve its values.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const frames = document.getElementById("frames");
  const texts = frames ? JSON.parse(frames.dataset.texts) : [];
  const sheet = frames && frames.querySelector("img");
  const place = (svg, event) => {
    const edge = svg.getBoundingClientRect(), box = svg.viewBox.baseVal;
    return [(event.clientX - edge.left) * box.width / edge.width,
            (event.clientY - edge.top) * box.height / edge.height];
  };
  const show = (event, text, picture) => {
    tip.replaceChildren(...(picture ? [picture] : []), text);
    tip.hidden = false;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
  };
  // the frame of a row, cut out of the sheet that holds all
  const cut = (row) => {
    if (!sheet) return null;
    const side = +frames.dataset.side, across = +frames.dataset.across, piece = document.createElement("canvas");
    piece.width = piece.height = 2 * side;
    piece.getContext("2d").drawImage(sheet, row % across * side, Math.floor(row / across) * side, side, side,
                                     0, 0, 2 * side, 2 * side);
    return piece;
  };
  const nearest = (values, wanted) =>
    values.reduce((best, value, n) => Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? n : best, 0);
  const kinds = {
    map: (svg, data) => (event) => {
      const [x, y] = place(svg, event);
      let best = -1, least = 64;
      data.forEach(([a, b], row) => {
        const away = (a - x) ** 2 + (b - y) ** 2;
        if (away < least) [best, least] = [row, away];
      });
      if (best < 0) tip.hidden = true;
      else show(event, texts[best] || "", cut(best));
    },
    heat: (svg, { down, across, box, names }) => (event) => {
      const [x, y] = place(svg, event), right = (x - box[0]) / box[2], low = (y - box[1]) / box[2];
      if (right < 0 || low < 0 || right >= 1 || low >= 1) return void (tip.hidden = true);
      show(event, `view ${names[0]}: ${down[Math.floor(low * down.length)]} s, view ${names[1]}: ` +
                  `${across[Math.floor(right * across.length)]} s`);
    },
    curves: (svg, { x, curves, name }) => (event) => {
      const [at] = place(svg, event);
      if (at < x[1] - 6 || at > x[2] + 6) return void (tip.hidden = true);
      const wanted = x[0] + (at - x[1]) / (x[2] - x[1]) * (x[3] - x[0]);
      const lines = curves.map((curve) => {
        const n = nearest(curve.x, wanted);
        return [curve.x[n], `${curve.name} ${curve.y[n]}`.trim()];
      });
      show(event, `${name} ${Math.round(lines[0][0]).toLocaleString("en")}: ${lines.map((line) => line[1]).join(", ")}`);
    },
  };
  for (const svg of document.querySelectorAll("svg[data-hover]")) {
    const told = kinds[svg.dataset.hover](svg, JSON.parse(svg.dataset.values));
    svg.addEventListener("pointermove", told);
    svg.addEventListener("pointerdown", told);
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
})();
