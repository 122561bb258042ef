// Sorts and chooses among the tables of the page, and draws its figures by plotly.js.

const page = JSON.parse(document.getElementById("content").textContent);
const PAPER = 660; // pixels of a figure in print
const root = document.documentElement;
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const $ = (id) => document.getElementById(id);
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
let figures = {}; // by split, name and variant
const state = { split: page.split, left_out: new Set(), printing: false };

const isDark = () =>
  !state.printing &&
  (root.dataset.theme ? root.dataset.theme === "dark" : darkSystem.matches);

// Figures.

// The traces of the experiments that are chosen; `meta` names them, or a trace's rows.
function chosen(trace) {
  if (!Array.isArray(trace.meta)) {
    return state.left_out.has(trace.meta) ? [] : [trace];
  }
  const kept = trace.meta.map((name) => !state.left_out.has(name));
  const rows = (values) => values.filter((_, row) => kept[row]);
  const [meta, y, z] = [trace.meta, trace.y, trace.z].map(rows);
  return [{ ...trace, meta, y, z }];
}

function draw(figure) {
  const name = figure.dataset.figure;
  const variants = figures[state.split]?.[name] ?? figures.any?.[name];
  const key = figure.querySelector("select")?.value ?? Object.keys(variants ?? {})[0];
  const [fact, plot] = [figure.querySelector(".fact"), figure.querySelector(".plot")];
  const made = variants?.[key];
  const traces = made?.data.flatMap(chosen) ?? [];
  plot.hidden = !traces.length;
  const whole = state.left_out.size ? "Of all experiments: " : "";
  fact.textContent = made ? whole + made.layout.meta : `There is none on ${state.split}.`;
  if (!traces.length || !window.Plotly) return;
  plot.classList.remove("waiting");
  plot.ariaLabel = `${made.layout.title.text}. ${fact.textContent}`;
  const layout = structuredClone(made.layout);
  layout.template = page.templates[isDark() ? "dark" : "light"];
  if (state.printing) layout.width = PAPER;
  plot.style.height = `${layout.height}px`;
  window.Plotly.react(plot, traces, layout, {
    responsive: !state.printing,
    displaylogo: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { filename: `${name}_${key}`, scale: 2 },
  });
}

// A figure is drawn when it comes near to what is seen, and drawn again if it changes.
const drawn = new Set();
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !drawn.has(target)) drawAt(target);
    }
  },
  { rootMargin: "400px" },
);

function drawAt(figure) {
  drawn.add(figure);
  draw(figure);
}

function redraw() {
  for (const figure of drawn) draw(figure);
}

// Tables.

const NUMBER = /^[<+]?\s*(-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?=$|[\s/*[%+-])/;

// A cell's first number; NaN where it has none.
function numberIn(cell) {
  const found = cell.textContent.trim().match(NUMBER);
  return found ? Number(found[1].replaceAll(",", "")) : NaN;
}

// Numbers fall at first, and what has none comes last; text rises at first.
function sortBy(table, head) {
  const column = [...head.parentElement.children].indexOf(head);
  const cell = (row) => row.cells[column];
  const rows = [...table.tBodies[0].rows];
  const known = head.classList.contains("text")
    ? []
    : rows.filter((row) => !Number.isNaN(numberIn(cell(row))));
  const order = known.length ? ["descending", "ascending"] : ["ascending", "descending"];
  const next = head.ariaSort === order[0] ? order[1] : order[0];
  const sign = next === "ascending" ? 1 : -1;
  known.sort((a, b) => sign * (numberIn(cell(a)) - numberIn(cell(b))));
  const others = rows.filter((row) => !known.includes(row));
  if (!known.length) {
    others.sort((a, b) => sign * cell(a).textContent.localeCompare(cell(b).textContent));
  }
  for (const other of all("thead th", table)) other.ariaSort = "none";
  head.ariaSort = next;
  table.tBodies[0].append(...known, ...others);
}

function makeSortable(table) {
  for (const head of all("thead th", table)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortBy(table, head));
    head.ariaSort = "none";
    head.replaceChildren(button);
  }
}

// What is shown.

function showSplit() {
  for (const one of all("[data-split]")) one.hidden = one.dataset.split !== state.split;
  redraw();
  $("status").textContent = `${state.split} is shown`;
}

function showChoice() {
  const boxes = all("#choice-list input");
  state.left_out = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  for (const row of all("tr[data-experiment]")) {
    row.hidden = state.left_out.has(row.dataset.experiment);
  }
  const count = boxes.length - state.left_out.size;
  $("choice-count").textContent = `${count} of ${boxes.length}`;
  redraw();
  $("status").textContent = `${count} experiments are shown`;
}

function showTheme() {
  $("theme").ariaPressed = String(isDark());
  redraw();
}

function listen() {
  for (const input of all("#split input")) {
    input.addEventListener("change", () => {
      state.split = input.value;
      showSplit();
    });
  }
  $("choice-list").addEventListener("change", showChoice);
  for (const [id, checked] of [["choose-all", true], ["choose-none", false]]) {
    $(id).addEventListener("click", () => {
      for (const box of all("#choice-list input")) box.checked = checked;
      showChoice();
    });
  }
  const menu = $("choice");
  document.addEventListener("click", ({ target }) => {
    if (!menu.contains(target)) menu.open = false;
  });
  menu.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  darkSystem.addEventListener("change", showTheme);
  for (const figure of all("figure")) {
    figure.querySelector("select")?.addEventListener("change", () => drawAt(figure));
  }
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      state.printing = printing;
      all("figure").forEach(drawAt);
    });
  }
  const wide = matchMedia("(min-width: 80rem)"); // there the contents have a column
  const follow = () => {
    document.querySelector("nav details").open = wide.matches;
  };
  wide.addEventListener("change", follow);
  follow();
}

// The figures and plotly.js come last, compressed; all else is readable before.

async function unpack(id) {
  const text = atob($(id).textContent.trim());
  const bytes = Uint8Array.from(text, (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream();
  const unpacked = stream.pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).text();
}

async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script); // runs at once, if its hash is allowed
  if (!window.Plotly) throw new Error("plotly.js did not start");
}

async function start() {
  try {
    figures = JSON.parse(await unpack("figures"));
    await loadPlotly();
    for (const figure of all("figure")) near.observe(figure);
    root.dataset.ready = "charts";
  } catch (error) {
    console.error(error);
    for (const plot of all(".plot.waiting")) plot.className = "plot failed";
    root.dataset.ready = "tables";
  }
}

all("table").forEach(makeSortable);
document.querySelector(".bar").hidden = false;
listen();
showChoice();
showTheme();
document.addEventListener("DOMContentLoaded", start);
