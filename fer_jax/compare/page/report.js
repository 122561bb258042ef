// The page: its controls, what each of them redraws, the CSV, and plotly.js's arrival.

const parts = {
  about: drawAbout,
  answers: drawAnswers,
  trouble: drawTrouble,
  overall: drawOverall,
  differences: drawDifferences,
  emotions: drawEmotions,
  best: drawBest,
  curves: drawCurves,
  confusions: drawConfusions,
  trade: drawTrade,
  calibration: drawCalibration,
  settings: drawSettings,
  cost: drawCost,
  method: drawMethod,
};
const CHARTS = ["differences", "curves", "trade", "calibration", "cost"];

function draw(names = Object.keys(parts)) {
  for (const name of names) parts[name]();
}

function drawAll() {
  fillKeys();
  draw();
  $("choice-count").textContent = `${shown().length}/${scored().length}`;
}

function tell() {
  $("status").textContent =
    `Shown: ${state.split}, ${count(shown().length, "experiment")}`;
}

// Controls.

function radios(id, options, key, after) {
  for (const [value, word] of options) {
    const input = el("input", { type: "radio", name: id, value });
    input.checked = state[key] === value;
    input.addEventListener("change", () => {
      state[key] = value;
      after();
    });
    $(id).append(el("label", {}, input, word));
  }
}

function options(id, pairs, value, after) {
  const select = $(id);
  select.append(...pairs.map(([key, word]) => el("option", { value: key }, word)));
  if (value !== null) select.value = value;
  select.addEventListener("change", after);
}

function tick(one, set, after, ...before) {
  const input = el("input", { type: "checkbox", value: one.id });
  input.checked = set.has(one.id);
  input.addEventListener("change", () => {
    if (input.checked) set.add(one.id);
    else set.delete(one.id);
    after();
  });
  return el("label", {}, input, ...before, named(one.id));
}

function choose(ids) {
  state.chosen = new Set(ids);
  fillChoice();
  drawAll();
  tell();
}

function fillChoice() {
  $("choice-list").replaceChildren(
    $("choice-list").firstElementChild,
    ...experiments.map((one) =>
      tick(one, state.chosen, () => {
        drawAll();
        tell();
      }),
    ),
  );
}

// The same experiments are drawn as curves and in the calibration.
function fillKeys() {
  const boxes = ["curve-keys", "calibration-keys"].map($);
  const follow = () => {
    for (const input of boxes.flatMap((box) => [...box.querySelectorAll("input")])) {
      input.checked = state.lines.has(input.value);
    }
    draw(["curves", "calibration"]);
  };
  for (const box of boxes) {
    box.replaceChildren(
      box.firstElementChild,
      ...shown().map((one) => tick(one, state.lines, follow, sample(one.id))),
    );
  }
}

// At first the baseline and what differs most from it.
function firstLines() {
  const size = (one) => Math.abs(difference(one.id, "macro_f1")?.value ?? 0);
  const order = scored()
    .filter((one) => !isBaseline(one.id))
    .sort((a, b) => size(b) - size(a))
    .map((one) => one.id);
  const base = scored().some((one) => isBaseline(one.id)) ? [content.baseline] : [];
  return new Set([...base, ...order].slice(0, 4));
}

function rarest() {
  const support = split().support ?? {};
  const found = emotions.filter((name) => support[name] > 0);
  return found.sort((a, b) => support[a] - support[b])[0] ?? emotions[0];
}

function fillControls() {
  const names = experiments.map((one) => [one.id, one.id]);
  const base = content.baseline ?? experiments[0]?.id;
  const second = experiments.find((one) => one.id !== base)?.id ?? base;
  radios(
    "split",
    splits.map((name) => [name, name]),
    "split",
    () => {
      drawAll();
      tell();
    },
  );
  radios("emotion-metric", Object.entries(KINDS), "kind", () => draw(["emotions"]));
  const modes = [
    ["score", "score"],
    ["difference", "difference"],
  ];
  const usable = modes.slice(0, baselineShown() ? 2 : 1);
  radios("emotion-mode", usable, "mode", () => draw(["emotions"]));
  options("difference-metric", [], null, () => draw(["differences"]));
  metricOptions($("difference-metric"));
  options("difference-order", [], null, () => {
    state.order = $("difference-order").value;
    draw(["differences"]);
  });
  state.order = "table";
  options("curve-metric", [], null, () => draw(["curves"]));
  options("confusion-left", names, base, () => draw(["confusions"]));
  options("confusion-right", names, second, () => draw(["confusions"]));
  const matrices = [
    ["rates", "rates"],
    ["counts", "counts"],
    ["difference", "difference"],
  ];
  radios("confusion-mode", matrices, "matrix", () => draw(["confusions"]));
  options(
    "trade-emotion",
    emotions.map((name) => [name, name]),
    rarest(),
    () => draw(["trade"]),
  );
  fillChoice();
  $("choose-all").addEventListener("click", () => choose(byId.keys()));
  $("choose-none").addEventListener("click", () => choose([]));
}

function metricOptions(select) {
  const group = (label, keys) =>
    el(
      "optgroup",
      { label },
      ...keys.map((key) => el("option", { value: key }, metricNames.get(key))),
    );
  select.append(
    group("Overall", Object.keys(OVERALL)),
    ...Object.entries(KINDS).map(([kind, word]) =>
      group(
        word,
        emotions.map((name) => `${kind}_${name}`),
      ),
    ),
  );
  select.value = "macro_f1";
}

function listenToMenu() {
  const menu = $("choice");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
}

function nameTheme() {
  $("theme").setAttribute("aria-pressed", isDark());
}

function listenToTheme() {
  const root = document.documentElement;
  const recolour = () => {
    nameTheme();
    drawAll();
  };
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    recolour();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  let told = null; // paper is white
  window.addEventListener("beforeprint", () => {
    told = root.dataset.theme ?? "";
    if (isDark()) {
      root.dataset.theme = "light";
      drawAll();
    }
  });
  window.addEventListener("afterprint", () => {
    if (told) root.dataset.theme = told;
    else delete root.dataset.theme;
    drawAll();
  });
}

function listenToWidth() {
  let [width, timer] = [innerWidth, 0];
  window.addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (innerWidth !== width) draw(CHARTS);
      width = innerWidth;
    }, 150);
  });
}

function fillContents() {
  const entries = [...document.querySelectorAll("#sections > section")]
    .filter((section) => !section.hidden)
    .map((section) =>
      el(
        "li",
        {},
        el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent),
      ),
    );
  $("contents")
    .querySelector("ol")
    .replaceChildren(...entries);
  const wide = matchMedia("(min-width: 80rem)"); // there it has a column of its own
  const follow = () => {
    $("contents").querySelector("details").open = wide.matches;
  };
  wide.addEventListener("change", follow);
  follow();
}

// The scores and differences that are shown, one row a score.

function csvText() {
  const head = [
    "split",
    "experiment",
    "seeds",
    "metric",
    "value",
    "low",
    "high",
    "sd",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "significant",
    "test",
  ];
  const rows = shown().flatMap((one) =>
    [...metricNames.keys()].map((metric) => {
      const [own, versus] = [score(one.id, metric), difference(one.id, metric)];
      return [
        state.split,
        one.id,
        one.seeds.length,
        metric,
        own?.value,
        own?.low,
        own?.high,
        own?.sd,
        content.baseline,
        versus?.value,
        versus?.low,
        versus?.high,
        versus?.p,
        versus?.p_holm,
        versus?.significant,
        versus?.test,
      ];
    }),
  );
  const quoted = (value) => {
    const text = String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return [head, ...rows].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
}

function saveCsv() {
  const blob = new Blob([csvText()], { type: "text/csv" });
  const link = el("a", {
    href: URL.createObjectURL(blob),
    download: `comparison_${state.split}.csv`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// plotly.js comes last in the page, compressed; all but the charts is readable before.

async function unpackPlotly() {
  const text = atob($("plotly").textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n += 1) bytes[n] = text.charCodeAt(n);
  const stream = new Blob([bytes])
    .stream()
    .pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(stream).text();
  document.head.append(el("script", {}, code)); // runs at once, if its hash is allowed
  if (!window.Plotly) throw new Error("plotly.js did not start");
}

const pause = () =>
  new Promise((resolve) => {
    setTimeout(resolve);
  });

async function drawCharts() {
  const root = document.documentElement;
  try {
    await unpackPlotly();
    for (const name of CHARTS) {
      draw([name]);
      await pause(); // the page stays responsive between charts
    }
    draw(["method"]);
    root.dataset.ready = "charts";
  } catch (error) {
    console.error(error);
    for (const plot of document.querySelectorAll(".plot.waiting")) {
      plot.className = "plot failed";
    }
    root.dataset.ready = "tables";
  }
}

state.lines = firstLines();
fillControls();
for (const id of ["sections", "contents"]) $(id).hidden = false;
document.querySelector(".bar").hidden = false;
nameTheme();
drawAll();
fillContents();
listenToMenu();
listenToTheme();
listenToWidth();
$("csv").addEventListener("click", saveCsv);
document.addEventListener("DOMContentLoaded", drawCharts);
