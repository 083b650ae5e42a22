"use strict";

(() => {
  const COLUMNS = 8;
  const find = (id) => document.getElementById(id);

  // Tables: a click on a heading sorts by it, a second click reverses the order; missing values stay last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.order;
      const numeric = [...table.tBodies[0].rows].every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
      const compare = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b, "en");
      const rows = [...table.tBodies[0].rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        return falling ? compare(b, a) : compare(a, b);
      });
      table.tBodies[0].append(...rows);
    }));
  }

  const folded = [...document.querySelectorAll("details")];
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = folded.filter((part) => !part.open);
    opened.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));

  if (!find("volumes")) return;
  const captions = JSON.parse(find("volumes").textContent);
  const bars = JSON.parse(find("bars").textContent);
  const figures = [...document.querySelectorAll(".volume")];
  const slider = find("slice"), choice = find("choice"), strip = find("strip"), viewer = find("viewer");
  const sliceOf = figures.map((figure) => Number(figure.dataset.start));
  let chosen = 0;

  function draw() {
    const figure = figures[chosen], slice = sliceOf[chosen];
    figures.forEach((other) => other.classList.toggle("chosen", other === figure));
    figure.style.setProperty("--column", slice % COLUMNS);
    figure.style.setProperty("--line", Math.floor(slice / COLUMNS));
    figure.querySelector(".where").textContent = captions[chosen][slice];
    slider.max = captions[chosen].length;
    slider.value = slice + 1;
    slider.setAttribute("aria-valuetext", captions[chosen][slice]);
    [...strip.children].forEach((column, index) => column.classList.toggle("current", index === slice));
  }

  function choose(index) {
    chosen = index;
    choice.value = index;
    strip.replaceChildren(...bars[index].map((heights, slice) => {
      const column = document.createElement("span");
      column.addEventListener("click", () => go(slice));
      column.append(...heights.map((height) => {
        const bar = document.createElement("i");
        bar.style.height = `${100 * height}%`;
        return bar;
      }));
      return column;
    }));
    draw();
  }

  /** Shows a slice, if it exists; returns whether it does. */
  function go(slice) {
    const there = slice >= 0 && slice < captions[chosen].length;
    if (there) {
      sliceOf[chosen] = slice;
      draw();
    }
    return there;
  }

  function toggle(layer) {
    const box = find(`show-${layer}`);
    if (box) viewer.classList.toggle(`without-${layer}`, !box.checked);
  }

  viewer.querySelectorAll(".controls").forEach((part) => { part.hidden = false; });
  viewer.querySelector(".volumes").classList.add("paged");
  slider.addEventListener("input", () => go(Number(slider.value) - 1));
  choice.addEventListener("change", () => choose(Number(choice.value)));
  find("previous").addEventListener("click", () => go(sliceOf[chosen] - 1));
  find("next").addEventListener("click", () => go(sliceOf[chosen] + 1));
  for (const layer of ["truth", "prediction"]) {
    const box = find(`show-${layer}`);
    if (box) box.addEventListener("change", () => toggle(layer));
  }
  for (const box of viewer.querySelectorAll(".show-class")) {
    box.addEventListener("change", () => {
      viewer.querySelectorAll(`.outline[data-class="${box.value}"]`).forEach((outline) => {
        outline.classList.toggle("off", !box.checked);
      });
    });
  }
  for (const figure of figures) {
    // At either end the wheel scrolls the page; with Ctrl it is the browser's zoom.
    figure.querySelector(".stage").addEventListener("wheel", (event) => {
      if (event.deltaY && !event.ctrlKey && !event.metaKey && go(sliceOf[chosen] + Math.sign(event.deltaY))) event.preventDefault();
    }, { passive: false });
  }
  for (const button of document.querySelectorAll(".open")) {
    button.addEventListener("click", () => {
      choose(figures.findIndex((figure) => figure.dataset.case === button.dataset.case));
      viewer.scrollIntoView();
      slider.focus({ preventScroll: true });
    });
  }
  document.addEventListener("keydown", (event) => {
    const free = event.target === document.body || viewer.contains(event.target);
    if (!free || event.ctrlKey || event.metaKey || event.altKey || event.target === choice) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const layer = { t: "truth", p: "prediction" }[event.key.toLowerCase()];
    if (step) {
      go(sliceOf[chosen] + step);
      event.preventDefault();
    } else if (layer && find(`show-${layer}`)) {
      find(`show-${layer}`).checked = !find(`show-${layer}`).checked;
      toggle(layer);
    }
  });
  choose(0);
})();
