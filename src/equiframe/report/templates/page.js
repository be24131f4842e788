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
  const section = document.getElementById(select.dataset.filter);
  select.addEventListener("change", () => {
    const chosen = select.value;
    for (const row of section.querySelectorAll("tr[data-group]")) {
      row.hidden = chosen ? row.dataset.group !== chosen : "more" in row.dataset;
    }
    for (const plot of section.querySelectorAll(".plot")) {
      const { height, margin, yaxis } = JSON.parse(plot.querySelector("script").textContent).layout;
      const at = chosen ? yaxis.ticktext.indexOf(chosen) : -1;
      const row = (height - margin.t - margin.b) / yaxis.ticktext.length;
      const narrow = { "yaxis.range": [at + 0.5, at - 0.5], height: row + margin.t + margin.b };
      Plotly.relayout(plot, at < 0 ? { "yaxis.range": yaxis.range, height } : narrow);
    }
  });
}
