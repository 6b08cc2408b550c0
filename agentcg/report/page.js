"use strict";
// Draws each plot when it comes into view, in the colours that the reader's system asks for, and saves it on request.
(() => {
  const { plots, templates } = JSON.parse(document.getElementById("plots").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Where a finger scrolls the page, dragging on a plot must do that, too.
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  const drawn = new Set();
  const LEGEND = 32; // pixels that each plot keeps for it

  function parts(name, template) {
    const { data, layout } = structuredClone(plots[name]); // plotly writes into what it is given
    return { data, layout: { ...layout, template, dragmode } };
  }

  function draw(element) {
    drawn.add(element);
    const { data, layout } = parts(element.dataset.plot, dark.matches ? templates.dark : templates.light);
    Plotly.react(element, data, layout, { responsive: true, displayModeBar: false }).then(fit);
  }

  // A legend of many lines, on a narrow screen, takes more room below the plot than was foreseen.
  function fit(element) {
    const { margin, height } = plots[element.dataset.plot].layout;
    const lines = element.querySelector(".legend")?.getBoundingClientRect().height ?? 0;
    const more = Math.max(0, Math.ceil(lines) - LEGEND);
    if (element.layout.height !== height + more) {
      element.style.height = `${height + more}px`;
      Plotly.relayout(element, { height: height + more, "margin.b": margin.b + more });
    }
  }

  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) {
          seen.unobserve(target);
          draw(target);
        }
      }
    },
    { rootMargin: "400px" },
  );
  for (const element of document.querySelectorAll("[data-plot]")) seen.observe(element);
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("resize", () => drawn.forEach(fit));

  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => {
      const { data, layout } = parts(button.dataset.of, templates.light);
      const format = button.dataset.save;
      const size = { width: 960, height: layout.height, scale: format === "png" ? 2 : 1 };
      Plotly.downloadImage({ data, layout }, { format, filename: button.dataset.of, ...size });
    });
  }

  for (const select of document.querySelectorAll("[data-shows]")) {
    const show = () => {
      for (const name of select.dataset.shows.split(" ")) {
        document.getElementById(name).hidden = name !== select.value;
      }
    };
    select.addEventListener("change", show);
    show(); // browsers keep what was chosen before a reload
  }
})();
