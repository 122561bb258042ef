// The tables: one way to make and sort them all, then each of them.

// columns: {head, cell(row), sort(row) or absent, text: true where it reads left}.
function table(name, caption, columns, rows, after = () => {}) {
  const head = el("tr");
  const tbody = el("tbody");
  const fill = () => {
    const told = state.sorts[name];
    columns.forEach((column, n) => {
      const way = told?.column === n ? told.way : null;
      if (column.sort) head.cells[n].setAttribute("aria-sort", way ?? "none");
    });
    tbody.replaceChildren(
      ...sorted(name, columns, rows).map((row) => line(columns, row)),
    );
  };
  columns.forEach((column, n) => {
    const cell = el("th", { scope: "col", class: column.text ? "text" : null });
    head.append(cell);
    if (!column.sort) return cell.append(column.head);
    const button = el("button", { type: "button" }, column.head);
    button.addEventListener("click", () => {
      turn(name, n, column);
      fill();
      after();
    });
    return cell.append(button);
  });
  fill();
  return scroller(
    caption,
    wide(el("table", {}, captioned(caption), el("thead", {}, head), tbody)),
  );
}

// Leaves the first column room for its longest name; how much of it, the style says.
function wide(made) {
  const longest = Math.max(
    ...[...made.tBodies[0].rows].map((row) =>
      row.cells[0].scope ? row.cells[0].textContent.length : 0,
    ),
    0,
  );
  made.style.setProperty("--name", `${longest + 1}ch`);
  return made;
}

function line(columns, row) {
  return el(
    "tr",
    {},
    ...columns.map((column, n) => {
      const tag = n === 0 ? "th" : "td";
      const scope = n === 0 ? "row" : null;
      const cell = el(tag, { scope, class: column.text ? "text" : null });
      cell.append(...[column.cell(row)].flat());
      return cell;
    }),
  );
}

// A number's first order is the best first, a text's the alphabet.
function turn(name, n, column) {
  const first = column.text || column.least ? "ascending" : "descending";
  const second = first === "ascending" ? "descending" : "ascending";
  const told = state.sorts[name];
  const way = told?.column === n && told.way === first ? second : first;
  state.sorts[name] = { column: n, way };
}

// What has no value stands last, whichever way.
function sorted(name, columns, rows) {
  const told = state.sorts[name];
  if (!told) return [...rows];
  const key = columns[told.column].sort;
  const sign = told.way === "ascending" ? 1 : -1;
  return [...rows].sort((one, other) => {
    const [a, b] = [key(one) ?? null, key(other) ?? null];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
  });
}

// Wide tables scroll by themselves, so the page never has to; keys reach them too.
function scroller(caption, child) {
  const frame = { class: "scroll", tabindex: 0, role: "region", "aria-label": caption };
  return el("div", frame, child);
}

const captioned = (text) => el("caption", {}, el("span", {}, text));

function withInterval(value, low) {
  return low ? [value, " ", el("small", {}, low)] : [value];
}

function scoreCell(id, metric) {
  const told = score(id, metric);
  return withInterval(percent(told?.value), interval(told));
}

function differenceCell(told) {
  if (!isNumber(told?.value)) return "–";
  const sign = told.value > 0 ? "better" : "worse";
  const value = el("span", { class: told.significant ? sign : null }, points(told.value));
  return withInterval(value, interval(told, points));
}

function pCell(told) {
  if (!isNumber(told?.p_holm)) return "–";
  const p = pValue(told.p_holm);
  return told.significant ? p : [p, " ", el("small", {}, "n.s.")];
}

const nameColumn = {
  head: "Experiment",
  text: true,
  sort: (one) => one.id,
  cell: (one) => named(one.id),
};

// Of the images that have no copy in train, where some have.
const CLEAN = ["accuracy", "macro_f1"];

function cleanColumn(key) {
  const value = (one) => content.splits[state.split].clean[one.id]?.[key];
  return {
    head: `${capital(OVERALL[key])}, clean`,
    cell: (one) => percent(value(one)),
    sort: value,
  };
}

function overallColumns() {
  const metric = ([key, word]) => ({
    head: capital(word),
    cell: (one) => scoreCell(one.id, key),
    sort: (one) => score(one.id, key)?.value,
  });
  const macro = (one) => difference(one.id, "macro_f1");
  const versus = [
    {
      head: "Macro F1 vs baseline",
      sort: (one) => macro(one)?.value,
      cell: (one) => (isBaseline(one.id) ? "baseline" : differenceCell(macro(one))),
    },
    {
      head: "p (Holm)",
      least: true,
      sort: (one) => macro(one)?.p_holm,
      cell: (one) => (isBaseline(one.id) ? "–" : pCell(macro(one))),
    },
  ];
  return [
    nameColumn,
    {
      head: "Seeds",
      cell: (one) => whole(one.seeds.length),
      sort: (one) => one.seeds.length,
    },
    ...Object.entries(OVERALL).map(metric),
    ...(content.splits[state.split].leaked ? CLEAN : []).map(cleanColumn),
    {
      head: "Sd over seeds",
      least: true,
      sort: (one) => score(one.id, "macro_f1")?.sd,
      cell: (one) => percent(score(one.id, "macro_f1")?.sd),
    },
    ...(baselineShown() ? versus : []),
    {
      head: "Best epoch",
      sort: (one) => one.best_epoch,
      cell: (one) => `${fixed(one.best_epoch, 0)} of ${fixed(one.epochs_run, 0)}`,
    },
    {
      head: "Minutes",
      least: true,
      sort: (one) => one.minutes,
      cell: (one) => fixed(one.minutes),
    },
  ];
}

const overallOrder = () => sorted("overall", overallColumns(), shown());

function drawOverall() {
  const caption = `Scores on ${state.split}, in %; sd over seeds is that of macro F1`;
  body("overall").replaceChildren(
    shown().length
      ? table("overall", caption, overallColumns(), shown(), afterSort)
      : el("p", {}, "No experiment is chosen."),
  );
}

function afterSort() {
  if (state.order === "table") draw(["differences"]);
}

// The emotions of each experiment as coloured cells.

const EMOTION_HOW = {
  score: "Yellow is high, dark blue is low; each cell is a mean over seeds, in %.",
  difference:
    "Blue is better than the baseline, orange worse, in percentage points; " +
    "bold is significant after Holm’s correction, n.s. is not.",
};

function drawEmotions() {
  const rows = shown().filter((one) => state.mode === "score" || !isBaseline(one.id));
  const cells = rows.map((one) => emotions.map((name) => emotionScore(one.id, name)));
  const values = cells
    .flat()
    .map((told) => told?.value)
    .filter(isNumber);
  const caption =
    `${KINDS[state.kind]} by emotion on ${state.split}: ` +
    (state.mode === "score" ? "scores in %" : "difference from the baseline in points");
  $("emotion-how").textContent = EMOTION_HOW[state.mode];
  const place = placing(values, state.mode === "score");
  const scale = state.mode === "score" ? CIVIDIS : DIVERGING[shade()];
  const line = (one, n) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, named(one.id)),
      ...cells[n].map((told) => paint(emotionCell(told), scale, place(told?.value))),
    );
  body("emotions").replaceChildren(
    rows.length
      ? scroller(
          caption,
          wide(
            el(
              "table",
              { class: "heat" },
              captioned(caption),
              heads("Experiment", emotions),
              el("tbody", {}, ...rows.map(line)),
            ),
          ),
        )
      : el("p", {}, "Nothing to show: no experiment besides the baseline is chosen."),
    emotionTable(rows),
  );
}

const emotionScore = (id, name) =>
  (state.mode === "score" ? score : difference)(id, `${state.kind}_${name}`);

function emotionCell(told) {
  if (!isNumber(told?.value)) return el("td", {}, "–");
  if (state.mode === "score") return el("td", {}, percent(told.value));
  return el(
    "td",
    { class: told.significant ? "significant" : null },
    points(told.value),
    told.significant ? null : el("small", {}, "n.s."),
  );
}

// Where a value stands on the colour scale; zero is the middle of a difference's.
function placing(values, sequential) {
  if (sequential) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (x) => (isNumber(x) ? (high > low ? (x - low) / (high - low) : 0.5) : null);
  }
  const reach = Math.max(0.02, ...values.map(Math.abs));
  return (x) => (isNumber(x) ? 0.5 + x / reach / 2 : null);
}

function heads(corner, names) {
  return el(
    "thead",
    {},
    el(
      "tr",
      {},
      el("th", { scope: "col" }, corner),
      ...names.map((name) => roomy(el("th", { scope: "col" }, name), name)),
    ),
  );
}

// A heading may break, but a word of usual length does not.
function roomy(cell, name) {
  cell.style.minWidth = `calc(${Math.min([...name].length, 12)}ch + .6rem)`;
  return cell;
}

function emotionTable(rows) {
  const words = state.mode === "score" ? percent : points;
  const column = (name) => ({
    head: name,
    cell: (one) => {
      const told = emotionScore(one.id, name);
      return withInterval(words(told?.value), interval(told, words));
    },
  });
  const columns = [{ ...nameColumn, sort: null }, ...emotions.map(column)];
  const caption = `${KINDS[state.kind]} by emotion on ${state.split} with intervals`;
  return el(
    "details",
    { class: "more" },
    el("summary", {}, "With intervals"),
    table("emotions", caption, columns, rows),
  );
}

function drawBest() {
  const rows = split().best ?? [];
  const caption = `Best F1 of each emotion on ${state.split}, all experiments`;
  body("best").replaceChildren(
    rows.length
      ? table("best", caption, bestColumns(), rows)
      : el("p", {}, "There is nothing to rank."),
  );
}

function bestColumns() {
  const support = (row) => split().support?.[row.emotion];
  const text = (head, value) => ({
    head,
    text: true,
    sort: value,
    cell: (row) => named(value(row) ?? "–"),
  });
  const number = (head, value, cell, least) => ({ head, sort: value, cell, least });
  return [
    text("Emotion", (row) => row.emotion),
    number("Images", support, (row) => whole(support(row))),
    text("Best", (row) => row.id),
    number(
      "F1",
      (row) => row.value,
      (row) => percent(row.value),
    ),
    text("Runner-up", (row) => row.runner_up),
    number(
      "Margin",
      (row) => row.margin?.value,
      (row) => differenceCell(row.margin),
    ),
    number(
      "p (Holm)",
      (row) => row.margin?.p_holm,
      (row) => pCell(row.margin),
      true,
    ),
    text("Significant?", bestVerdict),
  ];
}

function bestVerdict(row) {
  if (!row.margin) return "no rival";
  return row.margin.significant ? "yes" : "n.s.";
}

// Two confusion matrices, or the second less the first.

const CONFUSION_HOW = {
  rates:
    "Each row is a true emotion; a cell is the share of its images, in %, that " +
    "were given the column’s name. The diagonal, outlined, is right.",
  counts:
    "Each row is a true emotion; a cell counts its images that were given the " +
    "column’s name, summed over seeds. The diagonal, outlined, is right.",
  difference:
    "How the shares change from left to right, in percentage points: blue is " +
    "more in the right one, orange is fewer. On the outlined diagonal more is better.",
};

function drawConfusions() {
  const [left, right] = [$("confusion-left").value, $("confusion-right").value];
  $("confusion-how").textContent = CONFUSION_HOW[state.matrix];
  const rates = [left, right].map((id) => rowRates(split().confusion?.[id]));
  if (state.matrix === "difference" && rates[0] && rates[1]) {
    const change = rates[1].map((row, r) =>
      row.map((x, c) =>
        isNumber(x) && isNumber(rates[0][r][c]) ? x - rates[0][r][c] : null,
      ),
    );
    const caption = `${right} less ${left} on ${state.split}, in points`;
    const place = placing(change.flat().filter(isNumber), false);
    body("confusions").replaceChildren(
      matrix(
        caption,
        change,
        points,
        (r, c) => place(change[r][c]),
        DIVERGING[shade()],
      ),
    );
    return;
  }
  const ids = left === right ? [left] : [left, right];
  const pair = el(
    "div",
    { class: "pair" },
    ...ids.map((id, n) => confusion(id, rates[n])),
  );
  body("confusions").replaceChildren(pair);
}

function confusion(id, rates) {
  if (!rates) return el("p", {}, `${id}: no confusion matrix on ${state.split}.`);
  const counts = split().confusion[id];
  const caption =
    `${id} on ${state.split}, ` +
    (state.matrix === "counts" ? "images, all seeds" : "% of each row");
  const shownRows = state.matrix === "counts" ? counts : rates;
  return matrix(
    caption,
    shownRows,
    state.matrix === "counts" ? whole : percent,
    (r, c) => rates[r][c],
    CIVIDIS,
  );
}

function rowRates(counts) {
  return counts?.map((row) => {
    const sum = row.reduce((a, b) => a + b, 0);
    return row.map((n) => (sum ? n / sum : null));
  });
}

function matrix(caption, rows, words, place, scale) {
  const line = (row, r) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, emotions[r]),
      ...row.map((x, c) =>
        paint(
          el("td", { class: r === c ? "same" : null }, words(x)),
          scale,
          place(r, c),
        ),
      ),
    );
  return scroller(
    caption,
    el(
      "table",
      { class: "heat small" },
      captioned(caption),
      heads("true ↓ named →", emotions),
      el("tbody", {}, ...rows.map(line)),
    ),
  );
}

function drawSettings() {
  const known = content.baseline !== null;
  if (!known && experiments.every((one) => !one.changes?.length))
    return drawQuestions();
  const names = [
    "Experiment",
    "It asks",
    "Setting",
    ...(known ? ["Baseline"] : []),
    "Here",
  ];
  const caption = known
    ? "Settings that differ from the baseline’s"
    : "Settings in which the experiments differ; none of them is the baseline";
  const head = names.map((name) => el("th", { scope: "col", class: "text" }, name));
  const chosen = experiments.filter((one) => state.chosen.has(one.id));
  return body("settings").replaceChildren(
    scroller(
      caption,
      wide(
        el(
          "table",
          {},
          captioned(caption),
          el("thead", {}, el("tr", {}, ...head)),
          el("tbody", {}, ...chosen.flatMap((one) => settingRows(one, known))),
        ),
      ),
    ),
  );
}

function settingRows(one, known) {
  const none = isBaseline(one.id) ? "what the others are held against" : "nothing";
  const changes = one.changes?.length ? one.changes : [{ key: none }];
  const text = (value) => el("td", { class: "text" }, named(value ?? "–"));
  const lead = [
    el("th", { scope: "rowgroup", rowspan: changes.length }, named(one.id)),
    el("td", { class: "text long", rowspan: changes.length }, one.description || "–"),
  ];
  return changes.map((change, n) =>
    el(
      "tr",
      {},
      ...(n ? [] : lead),
      text(change.key),
      ...(known ? [text(change.baseline)] : []),
      text(change.value),
    ),
  );
}

function drawQuestions() {
  const columns = [
    nameColumn,
    { head: "It asks", text: true, cell: (one) => one.description || "–" },
  ];
  const chosen = experiments.filter((one) => state.chosen.has(one.id));
  body("settings").replaceChildren(
    table(
      "settings",
      "What each experiment asks; there is no baseline whose settings it could change",
      columns,
      chosen,
    ),
  );
}

function drawCostTable() {
  const perMinute = (one) =>
    one.minutes > 0 && isNumber(score(one.id, "macro_f1")?.value)
      ? score(one.id, "macro_f1").value / one.minutes
      : null;
  const column = (head, key, words, least) => ({
    head,
    least,
    sort: (one) => one[key],
    cell: (one) => words(one[key]),
  });
  const columns = [
    nameColumn,
    column("Minutes", "minutes", fixed, true),
    column("Images/s", "images_per_s", whole),
    column("Best epoch", "best_epoch", (x) => fixed(x, 0), true),
    column("Epochs run", "epochs_run", (x) => fixed(x, 0), true),
    column("Epochs set", "epochs", (x) => fixed(x, 0), true),
    column("Parameters", "parameters", whole, true),
    {
      head: "Macro F1",
      cell: (one) => percent(score(one.id, "macro_f1")?.value),
      sort: (one) => score(one.id, "macro_f1")?.value,
    },
    {
      head: "F1 points per minute",
      cell: (one) => percent(perMinute(one)),
      sort: perMinute,
    },
    {
      head: "Device",
      text: true,
      sort: (one) => one.device,
      cell: (one) => one.device ?? "–",
    },
  ];
  $("cost-table").replaceChildren(
    table(
      "cost",
      `Cost of one run and macro F1 on ${state.split}, in %`,
      columns,
      shown(),
    ),
  );
}
