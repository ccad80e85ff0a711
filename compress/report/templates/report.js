// Draws every chart of the page from the JSON beside it; redraws on a change of theme and for print.
(() => {
  "use strict";
  const root = document.documentElement;
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const NARROW = 520;
  const BUTTONS = [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]];

  // "--after" -> the colour that variable has now
  const resolve = (value, style) => {
    if (typeof value === "string") return /^--[a-z]+$/.test(value) ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((inner) => resolve(inner, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolve(inner, style)]));
    return value;
  };

  // the end of a module path says more than its start
  const tail = (label, room) => (label.length > room ? "…" + label.slice(1 - room) : label);

  const layout = (spec, style, width) => {
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const axis = { color: ink, gridcolor: line, zerolinecolor: line, tickcolor: line, linecolor: line, automargin: true, fixedrange: spec.key !== "pareto" };
    const asked = resolve(spec.layout, style);
    const y = { ...axis, ...(asked.yaxis || {}) };
    if (y.ticktext) y.ticktext = y.ticktext.map((label) => tail(label, width < NARROW ? 13 : 26));
    if (asked.pad === "y") {  // room for the labels above the points
      const values = spec.data.flatMap((trace) => trace.y).filter((value) => value !== null);
      const low = Math.min(...values), high = Math.max(...values), room = Math.max(high - low, Math.abs(high) * 0.002, 1e-9);
      y.range = [low - 0.3 * room, high + 0.4 * room];
    }
    return {
      showlegend: false, dragmode: spec.key === "pareto" ? "zoom" : false, height: spec.height, width,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 44, r: 14, t: 14, b: 34 },
      font: { family: style.getPropertyValue("font-family"), size: 12, color: ink },
      hoverlabel: { align: "left", bgcolor: style.getPropertyValue("--paper").trim(), bordercolor: line, font: { color: ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style.getPropertyValue("--muted").trim(), activecolor: ink },
      ...asked, pad: undefined, labels: undefined,
      xaxis: { ...axis, ...(asked.xaxis || {}) }, yaxis: y,
    };
  };

  const draw = () => {
    const style = getComputedStyle(root);
    for (const [key, spec] of Object.entries(specs)) {
      const place = document.getElementById("plot-" + key);
      const width = Math.max(200, Math.floor(place.parentElement.clientWidth) - 2);
      Plotly.react(place, resolve(spec.data, style), layout(spec, style, width),
        { displayModeBar: key === "pareto" ? "hover" : false, displaylogo: false, responsive: false, modeBarButtons: BUTTONS });
    }
    root.dataset.plots = String(Object.keys(specs).length);
  };

  // two lists of layers side by side scroll as one
  const boxes = [...document.querySelectorAll(".layers .tall")];
  for (const box of boxes)
    box.addEventListener("scroll", () => boxes.forEach((other) => { if (other !== box) other.scrollTop = box.scrollTop; }));

  let frame = 0, drawn = 0;
  const fit = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => { if (innerWidth !== drawn) { drawn = innerWidth; draw(); } });
  };
  addEventListener("resize", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const forPrint = (on) => () => { root.classList.toggle("print", on); draw(); };
  addEventListener("beforeprint", forPrint(true));
  addEventListener("afterprint", forPrint(false));
  drawn = innerWidth;
  draw();
})();
