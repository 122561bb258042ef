// Colours of series and cells. The series' are Okabe and Ito's, darkened where one
// would be too pale on white; marker and dash tell apart what shares a colour.

const SERIES = {
  light: ["#0072b2", "#d55e00", "#008a64", "#b4558c", "#b67700", "#2b8cc4", "#8c7e00"],
  dark: ["#4aa8e8", "#f07c2c", "#1fbf92", "#de94bd", "#e69f00", "#8fd0f5", "#f0e442"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = {
  circle: "M9 5a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
  square: "M9.5 1.5h7v7h-7z",
  diamond: "M13 0l5 5l-5 5l-5-5z",
  "triangle-up": "M13 .5l4.6 8.5h-9.2z",
  cross: "M11.5 1h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
  "triangle-down": "M13 9.5l4.6-8.5h-9.2z",
  pentagon: "M13 .5l4.6 3.4l-1.8 5.6h-5.6l-1.8-5.6z",
};
const CIVIDIS = [
  "#00224e",
  "#123570",
  "#3b496c",
  "#575d6d",
  "#707173",
  "#8a8678",
  "#a59c74",
  "#c3b369",
  "#e1cc55",
  "#fee838",
];
const DIVERGING = {
  light: ["#a84600", "#e8965a", "#f3f3f3", "#6aaede", "#00569b"],
  dark: ["#f5a264", "#9c5a2a", "#2b3036", "#2f6ea3", "#83c3f2"],
};

const others = experiments.filter((one) => !isBaseline(one.id)).map((one) => one.id);

function isDark() {
  const told = document.documentElement.dataset.theme;
  return told ? told === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const shade = () => (isDark() ? "dark" : "light");

function ink(name) {
  const style = getComputedStyle(document.documentElement);
  return style.getPropertyValue(`--${name}`).trim();
}

// An experiment keeps its look whatever else is shown.
function look(id) {
  if (isBaseline(id)) return { color: ink("ink"), dash: "solid", symbol: "circle" };
  const place = others.indexOf(id);
  const names = Object.keys(SYMBOLS);
  return {
    color: SERIES[shade()][place % 7],
    dash: DASHES[Math.floor(place / 7) % DASHES.length],
    symbol: names[(place + 1) % names.length],
  };
}

function sample(id) {
  const { color, dash, symbol } = look(id);
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const parts = { width: 26, height: 10, "aria-hidden": "true" };
  for (const [name, value] of Object.entries(parts)) svg.setAttribute(name, value);
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", "M0 5h26");
  line.setAttribute("stroke", color);
  line.setAttribute("stroke-width", 2);
  const gaps = { solid: "", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2" }[dash];
  line.setAttribute("stroke-dasharray", gaps);
  const marker = document.createElementNS(space, "path");
  marker.setAttribute("d", SYMBOLS[symbol]);
  marker.setAttribute("fill", color);
  svg.append(line, marker);
  return svg;
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// The colour at `place`, 0 to 1, of a scale.
function along(scale, place) {
  const at = Math.min(Math.max(place, 0), 1) * (scale.length - 1);
  const low = Math.min(Math.floor(at), scale.length - 2);
  const [from, to] = [channels(scale[low]), channels(scale[low + 1])];
  return from.map((value, n) => Math.round(value + (to[n] - value) * (at - low)));
}

// Black or white, whichever reads better on the colour: at least 4.5 to 1.
function readable(rgb) {
  const [r, g, b] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return luminance > 0.179 ? "#000000" : "#ffffff";
}

function paint(cell, scale, place) {
  if (!isNumber(place)) return cell;
  const rgb = along(scale, place);
  cell.style.backgroundColor = `rgb(${rgb.join(" ")})`;
  cell.style.color = readable(rgb);
  return cell;
}
