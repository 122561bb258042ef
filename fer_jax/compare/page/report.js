// Sorts and chooses among the tables of the page, and draws its figures by plotly.js.

const page = JSON.parse(document.getElementById("content").textContent);
const root = document.documentElement;
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const $ = (id) => document.getElementById(id);
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
let figures = {}; // by split, name and variant
const state = { split: page.split, left_out: new Set() };

const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : darkSystem.matches;

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
  plot.hidden = !made;
  fact.textContent = made ? made.layout.meta : `There is none on ${state.split}.`;
  if (!made || !window.Plotly) return;
  plot.classList.remove("waiting");
  plot.ariaLabel = `${made.layout.title.text}. ${made.layout.meta}`;
  const layout = { ...made.layout, template: page.templates[isDark() ? "dark" : "light"] };
  window.Plotly.react(plot, made.data.flatMap(chosen), structuredClone(layout), {
    responsive: true,
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

// A cell's first number; text where it has none, and last what there is not.
function sortKey(cell) {
  const text = cell.textContent.trim();
  const number = text.match(/^[<+]?\s*(-?[\d,]+(\.\d+)?)/);
  return number ? Number(number[1].replaceAll(",", "")) : text;
}

function byKey(a, b) {
  if (typeof a === typeof b) {
    return typeof a === "number" ? b - a : a.localeCompare(b);
  }
  return typeof a === "number" ? -1 : 1;
}

function sortBy(table, head) {
  const column = [...head.parentElement.children].indexOf(head);
  const first = head.ariaSort === "none";
  const falling = first || head.ariaSort === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
  rows.sort(([a], [b]) => byKey(a, b));
  const known = rows.filter(([key]) => typeof key === "number");
  if (!falling) rows.splice(0, known.length, ...known.reverse());
  for (const other of all("thead th", table)) other.ariaSort = "none";
  head.ariaSort = falling ? "descending" : "ascending";
  body.append(...rows.map(([, row]) => row));
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
  addEventListener("beforeprint", () => all("figure").forEach(drawAt));
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
