// The data, elements and words. Texts of the data become text nodes, never markup.

const content = JSON.parse(document.getElementById("content").textContent);
const experiments = content.experiments;
const byId = new Map(experiments.map((one) => [one.id, one]));
const emotions = content.emotions;
const splits = ["val", "test"].filter((name) => content.splits[name]);
const OVERALL = {
  accuracy: "accuracy",
  macro_f1: "macro F1",
  balanced_accuracy: "balanced accuracy",
};
const KINDS = { f1: "F1", precision: "precision", recall: "recall" };
const metricNames = new Map(Object.entries(OVERALL));
for (const [kind, word] of Object.entries(KINDS)) {
  for (const name of emotions) metricNames.set(`${kind}_${name}`, `${word} of ${name}`);
}

// What the reader has chosen; every part of the page is drawn from it.
const state = {
  split: content.splits[content.split] ? content.split : splits[0],
  chosen: new Set(byId.keys()),
  lines: new Set(), // drawn in the charts that have room for a few
  sorts: {},
  kind: "f1",
  mode: "score",
  matrix: "rates",
};

const $ = (id) => document.getElementById(id);
const body = (section) => $(section).querySelector(".body");

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A name that may break after its "_", "." and "/".
function named(name) {
  const pieces = String(name).split(/(?<=[_./])/);
  return el(
    "span",
    {},
    ...pieces.flatMap((piece, n) => (n ? [el("wbr"), piece] : [piece])),
  );
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
const minus = (text) => text.replace("-", "−");

// As Python rounds: what lies exactly between two numbers becomes the even one.
function rounded(x, digits) {
  const below = Math.floor(x * 10 ** digits);
  const tie = x * 10 ** digits - below === 0.5 && Number.isInteger(x * 2 ** (digits + 1));
  return tie && below % 2 === 0 ? (below / 10 ** digits).toFixed(digits) : x.toFixed(digits);
}

function fixed(x, digits = 1) {
  if (!isNumber(x)) return "–";
  const text = x < 0 ? `-${rounded(-x, digits)}` : rounded(x, digits);
  return Number(text) === 0 ? text.replace("-", "") : minus(text);
}

const percent = (x) => fixed(isNumber(x) ? 100 * x : null);
const whole = (x) =>
  isNumber(x) ? rounded(x, 0).replace(/\B(?=(\d{3})+$)/g, ",") : "–";

function points(x) {
  const text = percent(x);
  return isNumber(x) && x > 0 && Number(text) !== 0 ? `+${text}` : text;
}

function interval(score, words = percent) {
  return isNumber(score?.low) ? `[${words(score.low)}, ${words(score.high)}]` : "";
}

function pValue(p) {
  if (!isNumber(p)) return "–";
  return p < 0.001 ? "<0.001" : p.toFixed(p < 0.1 ? 3 : 2);
}

function count(n, noun) {
  return `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;
}

function mean(values) {
  const known = values.filter(isNumber);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}

// The split that is shown, its experiments, and what it says of one of them.
const split = () => content.splits[state.split];
const scored = () => experiments.filter((one) => split().scores?.[one.id]);
const shown = () => scored().filter((one) => state.chosen.has(one.id));
const score = (id, metric) => split().scores?.[id]?.[metric] ?? null;
const difference = (id, metric) => split().differences?.[id]?.[metric] ?? null;
const isBaseline = (id) => id === content.baseline;
const baselineShown = () => content.baseline !== null && byId.has(content.baseline);
