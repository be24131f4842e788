"use strict";
const plots = document.querySelectorAll(".plot");
for (const plot of plots) {
  const { data, layout } = JSON.parse(plot.querySelector("script").textContent);
  layout.showlegend = false;
  Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false });
  const button = plot.parentElement.querySelector("button");
  button.addEventListener("click", () => {
    const { width, height } = plot.getBoundingClientRect();
    const filename = plot.parentElement.querySelector("figcaption b").textContent;
    Plotly.downloadImage(plot, { format: "svg", filename, width, height });
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
