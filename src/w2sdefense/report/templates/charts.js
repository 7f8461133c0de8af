"use strict";
// Draws the charts in the colours of the page. Without it (or in a browser that cannot unpack gzip) the
// words, the table and the texts remain.
(() => {
  const charts = [...document.querySelectorAll("script[data-chart]")].map((source) => ({
    node: document.getElementById(source.dataset.chart),
    figure: JSON.parse(source.textContent),
  }));
  const config = { displayModeBar: false, responsive: true, showTips: false };

  // "var(--name)" -> the colour it has now, anywhere in a figure.
  const resolve = (value, styles) => {
    if (typeof value === "string") {
      return value.replace(/^var\((--[\w-]+)\)$/, (_, name) => styles.getPropertyValue(name).trim());
    }
    if (Array.isArray(value)) return value.map((item) => resolve(item, styles));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, styles)]));
  };

  const draw = ({ node, figure }) => {
    const { data, layout } = resolve(figure, getComputedStyle(document.documentElement));
    return window.Plotly.react(node, data, layout, config);
  };

  // A point that stands for a run leads to its record.
  const follow = ({ id }) => {
    if (id) location.hash = id;
  };

  const loadPlotly = async () => {
    const packed = document.getElementById("plotly").textContent;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };

  const drawAll = async () => {
    await loadPlotly();
    await Promise.all(charts.map(draw));
    for (const { node } of charts) node.on("plotly_click", ({ points }) => follow(points[0]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(draw));
    document.documentElement.dataset.charts = "drawn";
  };

  // A legend whose entries hide and show one trace in all charts of a group.
  for (const legend of document.querySelectorAll("[data-toggles]")) {
    const group = document.getElementById(legend.dataset.toggles);
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const chart of charts.filter(({ node }) => group.contains(node))) {
        const trace = chart.figure.data[button.dataset.trace];
        if (!trace) continue;
        trace.visible = shown;
        draw(chart);
      }
    });
  }

  drawAll().catch((error) => {
    console.error(error);
    for (const { node } of charts) node.textContent = "This browser cannot draw the chart; see the table.";
  });
})();
