"use strict";
(async () => {
  const root = document.documentElement;
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const seriesColor = (series) => style(`--series-${series % 6}`);
  const translucent = (hex) => `${hex}2e`;
  const copy = (value) => JSON.parse(JSON.stringify(value));

  async function decompressed(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (char) => char.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // Figures come without colors: what a trace shows and in which role says which it gets.
  function themed(figure, hidden) {
    const { data, layout } = copy(figure);
    for (const trace of data) {
      const { series, role } = trace.meta;
      const color = seriesColor(series);
      trace.showlegend = false;
      trace.visible = !hidden.has(series);
      if (trace.type === "bar") {
        trace.marker = { ...trace.marker, color };
      } else {
        trace.line = { ...trace.line, color };
        trace.marker = { ...trace.marker, color };
        if (role === "band") trace.fillcolor = translucent(color);
      }
      if (trace.error_y) trace.error_y.color = color;
      if (trace.error_x) trace.error_x.color = color;
    }
    const axis = { gridcolor: style("--grid"), zerolinecolor: style("--grid"), linecolor: style("--grid"), automargin: true };
    const muted = style("--muted");
    for (const name of ["xaxis", "yaxis"]) layout[name] = { ...axis, ...layout[name], tickfont: { color: muted } };
    for (const shape of layout.shapes ?? []) shape.line.color = muted;
    for (const note of layout.annotations ?? []) Object.assign(note, { font: { size: 11, color: muted }, bgcolor: style("--paper"), borderpad: 1 });
    return {
      data,
      layout: {
        margin: { l: 48, r: 12, t: 8, b: 44 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("--ink") },
        hovermode: "x unified",
        hoverlabel: { bgcolor: style("--raised"), bordercolor: style("--grid"), font: { color: style("--ink") } },
        dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
        ...layout,
      },
    };
  }

  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const figures = [...document.querySelectorAll(".canvas")].map((canvas) => ({
    canvas,
    source: JSON.parse(canvas.nextElementSibling.textContent),
    hidden: new Set(),
    drawn: false,
  }));

  function draw(figure) {
    const { data, layout } = themed(figure.source, figure.hidden);
    figure.drawn = true;
    return Plotly.react(figure.canvas, data, layout, config);
  }

  // What is inside a closed fold has no size yet: it is drawn when it is opened.
  const inSight = (figure) => figure.canvas.offsetParent !== null;
  const drawAll = () => Promise.all(figures.filter((figure) => figure.drawn || inSight(figure)).map(draw));

  function colorLegends() {
    for (const button of document.querySelectorAll(".legend button")) {
      button.querySelector("i").style.background = seriesColor(Number(button.dataset.series));
    }
  }

  function sortTable(header) {
    const table = header.closest("table");
    const column = [...header.parentNode.children].indexOf(header);
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const key = (row) => row.children[column].dataset.sort;
    const compare = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === ""); // what is missing comes last
      if (row0Numeric) return sign * (Number(key(a)) - Number(key(b)));
      return sign * key(a).localeCompare(key(b), undefined, { numeric: true });
    };
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const row0Numeric = rows.length > 0 && rows[0].children[column].classList.contains("number");
    body.append(...rows.sort(compare));
  }

  const THEMES = ["auto", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("quadriga-theme"); } catch { return null; } };
  function setTheme(theme, remember) {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    const button = document.getElementById("theme");
    button.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    if (remember) { try { localStorage.setItem("quadriga-theme", theme); } catch { /* a page from a file may have no storage */ } }
    colorLegends();
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortTable(button.parentNode));
  }
  setTheme(THEMES.includes(remembered()) ? remembered() : "auto", false);

  const library = document.createElement("script");
  library.textContent = await decompressed("plotly");
  document.head.append(library);
  await drawAll();

  document.getElementById("theme").addEventListener("click", (event) => {
    setTheme(THEMES[(THEMES.indexOf(event.target.dataset.theme) + 1) % THEMES.length], true);
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colorLegends(); drawAll(); });
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!shown));
      const section = button.closest("section");
      for (const figure of figures.filter((each) => section.contains(each.canvas))) {
        figure.hidden[shown ? "add" : "delete"](Number(button.dataset.series));
        if (figure.drawn) draw(figure);
      }
    });
  }
  for (const fold of document.querySelectorAll("details")) {
    fold.addEventListener("toggle", () => drawAll());
  }

  // On paper: light, and as wide as half a page.
  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme ?? "auto";
    setTheme("light", false);
    for (const figure of figures.filter((each) => each.drawn)) {
      const { data, layout } = themed(figure.source, figure.hidden);
      Plotly.react(figure.canvas, data, { ...layout, width: 340, height: 230, autosize: false }, { ...config, responsive: false });
    }
  });
  addEventListener("afterprint", () => { setTheme(before ?? "auto", false); drawAll(); });
  root.dataset.ready = "true";
})();
