// A line under the pointer, or its entry in the legend, stands out: the other lines of its picture fade.
if (!window.kvplanLit) {
  window.kvplanLit = true;
  const light = (plot, uid) => {
    plot.classList.toggle("lit-one", Boolean(uid));
    for (const trace of plot.querySelectorAll(".scatterlayer .trace")) trace.classList.toggle("lit", trace.classList.contains("trace" + uid));
  };
  document.addEventListener("mouseover", (event) => {
    const plot = event.target.closest?.(".js-plotly-plot");
    if (!plot?.on) return;
    if (plot.kvplanEvents !== plot._ev) {
      plot.kvplanEvents = plot._ev;
      plot.on("plotly_hover", (hit) => light(plot, hit.points[0]?.fullData?.uid));
      plot.on("plotly_unhover", () => light(plot, null));
    }
    const entry = event.target.closest(".legend .traces");
    if (entry) light(plot, entry.__data__?.[0]?.trace?.uid);
    else if (plot.contains(event.target) && event.target.closest(".legend")) light(plot, null);
  });
  document.addEventListener("mouseout", (event) => {
    const entry = event.target.closest?.(".legend .traces");
    if (entry) light(entry.closest(".js-plotly-plot"), null);
  });
  // A formula wider than its place is scrolled by keyboard too.
  new MutationObserver(() => {
    for (const formula of document.querySelectorAll(".katex-display:not([tabindex])")) {
      formula.tabIndex = 0;
      formula.setAttribute("role", "group");
      formula.setAttribute("aria-label", "formula");
    }
  }).observe(document.body, { subtree: true, childList: true });
}
