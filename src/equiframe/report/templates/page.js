"use strict";
const plots = document.querySelectorAll(".plot");
for (const plot of plots) {
  const source = plot.querySelector("script").textContent;
  const { data, layout } = JSON.parse(source);
  Plotly.newPlot(plot, data, { ...layout, showlegend: false }, { responsive: true, displayModeBar: false });
  const caption = plot.parentElement.querySelector("figcaption");
  caption.querySelector("button").addEventListener("click", () => {
    const filename = caption.querySelector("b").textContent;
    const { width, height } = plot.getBoundingClientRect();
    Plotly.downloadImage(JSON.parse(source), { format: "svg", filename, width, height: height + 30 });
  });
}
const fit = () => plots.forEach((plot) => Plotly.Plots.resize(plot));
matchMedia("print").addEventListener("change", fit);
for (const select of document.querySelectorAll("select[data-filter]")) {
  const rows = document.getElementById(select.dataset.filter).tBodies[0].rows;
  select.addEventListener("change", () => {
    for (const row of rows) {
      row.hidden = select.value ? row.dataset.group !== select.value : !("first" in row.dataset);
    }
  });
}
