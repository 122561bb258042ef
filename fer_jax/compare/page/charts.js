// The charts: each says its main fact in words, and has its numbers as a table.

const NARROW = 560; // below this width labels stand above the rows, not beside them
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";

// plotly.js reads tags and entities in its texts: names must not hold any.
const safe = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const pen = document.createElement("canvas").getContext("2d");

function textWidth(text, size = 13) {
  pen.font = `${size}px ${FONT}`;
  return pen.measureText(text).width;
}

function fit(text, width, size = 13) {
  if (textWidth(text, size) <= width) return text;
  let cut = [...text];
  while (cut.length > 1 && textWidth(`${cut.join("")}…`, size) > width) cut.pop();
  return `${cut.join("")}…`;
}

// `make(width)` gives {fact, kind, table} and {traces, layout}, or {empty: a sentence}.
function figure(name, make) {
  const box = document.querySelector(`[data-chart="${name}"]`);
  if (!box.firstChild) box.append(...frame(name));
  const [fact, drawing, extra, under] = box.children;
  const width = Math.floor(box.clientWidth);
  const told = make(width);
  fact.textContent = told.fact ?? told.empty;
  drawing.hidden = under.hidden = extra.hidden = Boolean(told.empty);
  if (told.empty) return;
  drawing.setAttribute("aria-label", `${told.kind}. ${told.fact}`);
  under
    .querySelector("details")
    .replaceChildren(el("summary", {}, "As a table"), told.table);
  extra.replaceChildren(...(told.key ?? []));
  under.querySelector("button").hidden = !window.Plotly;
  if (!window.Plotly) return;
  drawing.className = "plot";
  drawing.style.minHeight = `${told.layout.height}px`;
  window.Plotly.react(drawing, told.traces, told.layout, { displayModeBar: false });
}

function frame(name) {
  const drawing = el("div", { class: "plot waiting", role: "img" });
  const button = el("button", { type: "button" }, "Save as PNG");
  button.addEventListener("click", () =>
    window.Plotly.downloadImage(drawing, {
      format: "png",
      filename: name,
      scale: 2,
      width: drawing.clientWidth,
      height: drawing.clientHeight,
    }),
  );
  return [
    el("p", { class: "fact" }),
    drawing,
    el("div"),
    el("div", { class: "under" }, el("details", {}), button),
  ];
}

function layout(width, height, margin, more) {
  return {
    width,
    height,
    margin,
    paper_bgcolor: ink("ground"),
    plot_bgcolor: ink("ground"),
    font: { family: FONT, size: 13, color: ink("ink") },
    showlegend: false,
    hovermode: "closest",
    dragmode: false,
    hoverlabel: {
      bgcolor: ink("raised"),
      bordercolor: ink("edge"),
      align: "left",
      font: { family: FONT, size: 13, color: ink("ink") },
    },
    ...more,
  };
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8, font: { size: 13 } },
    gridcolor: ink("grid"),
    zeroline: false,
    linecolor: ink("edge"),
    showline: true,
    fixedrange: true,
    ...more,
  };
}

function scatter(more) {
  return { type: "scatter", hoverinfo: "text", ...more };
}

// Differences from the baseline.

function drawDifferences() {
  const metric = $("difference-metric").value;
  for (const part of $("differences").querySelectorAll(".how, .controls")) {
    part.hidden = !baselineShown();
  }
  const rows = overallOrder()
    .map((one) => ({ id: one.id, told: difference(one.id, metric) }))
    .filter(({ told }) => isNumber(told?.value));
  if (state.order === "value") rows.sort((a, b) => b.told.value - a.told.value);
  figure("difference-chart", (width) =>
    rows.length
      ? {
          kind: `Differences of ${metricNames.get(metric)} on ${state.split}`,
          fact: differenceFact(rows, metric),
          table: differenceTable(rows, metric),
          ...forest(rows, width, metric),
        }
      : {
          empty: baselineShown()
            ? "No experiment is chosen that differs from the baseline."
            : "There is no baseline among the runs, so there are no differences.",
        },
  );
}

function differenceFact(rows, metric) {
  const significant = rows.filter(({ told }) => told.significant);
  const order = [...rows].sort((a, b) => b.told.value - a.told.value);
  const best = order[0];
  const head =
    significant.length === 0
      ? `None of ${count(rows.length, "difference")} is significant`
      : `${whole(significant.length)} of ${count(rows.length, "difference")} ` +
        (significant.length === 1 ? "is significant" : "are significant");
  const tail = ({ id, told }) =>
    `${id} ${points(told.value)} ${interval(told, points)}` +
    (told.significant ? "" : " (n.s.)");
  const worst = rows.length > 1 ? `, lowest ${tail(order.at(-1))}` : "";
  return `${capital(metricNames.get(metric))}: ${head}; highest ${tail(best)}${worst}.`;
}

function differenceTable(rows, metric) {
  const columns = [
    { head: "Experiment", text: true, cell: ({ id }) => named(id) },
    { head: "Difference", cell: ({ told }) => differenceCell(told) },
    { head: "p", cell: ({ told }) => pValue(told.p) },
    { head: "p (Holm)", cell: ({ told }) => pCell(told) },
    { head: "Minimum detectable effect", cell: ({ told }) => percent(told.detectable) },
    { head: "Test", text: true, cell: ({ told }) => told.test ?? "–" },
  ];
  const name = metricNames.get(metric);
  const caption = `${name} on ${state.split} less the baseline’s, in points`;
  return table("differences", caption, columns, rows);
}

function forest(rows, width, metric) {
  const narrow = width < NARROW;
  const left = narrow
    ? 8
    : Math.min(0.35 * width, Math.max(...rows.map(({ id }) => textWidth(id))) + 24);
  const margin = { l: left, r: narrow ? 8 : 190, t: narrow ? 16 : 6, b: 44 };
  const step = narrow ? 46 : 30;
  const height = margin.t + margin.b + step * rows.length + 8;
  const values = rows.flatMap(({ told }) => [told.value, told.low, told.high]);
  const known = [0, ...values].filter(isNumber).map((x) => 100 * x);
  const pad = Math.max(0.5, 0.06 * (Math.max(...known) - Math.min(...known)));
  const range = [Math.min(...known) - pad, Math.max(...known) + pad];
  const title =
    "points " +
    (narrow ? "" : `of ${safe(metricNames.get(metric))} `) +
    "from the baseline";
  return {
    traces: [
      forestPoints(rows, true, 1),
      forestPoints(rows, true, -1),
      forestPoints(rows, false, 0),
    ],
    layout: layout(width, height, margin, {
      xaxis: axis(title, { range }),
      yaxis: {
        range: [rows.length - 0.4, narrow ? -0.75 : -0.6],
        visible: false,
        fixedrange: true,
      },
      shapes: forestShapes(rows, range, narrow ? 0.16 : 0.34),
      annotations: rows.flatMap((row, n) => forestWords(row, n, narrow, left, width)),
    }),
  };
}

// One group of marks: significant gains, significant losses, or what is n.s.
function forestPoints(rows, significant, sign) {
  const color = sign ? ink(sign > 0 ? "better" : "worse") : ink("ink");
  const own = rows
    .map((row, n) => ({ ...row, n }))
    .filter(
      ({ told }) =>
        Boolean(told.significant) === significant &&
        (!sign || Math.sign(told.value || 1) === sign),
    );
  const gap = (told, end) =>
    isNumber(told[end]) ? 100 * Math.abs(told[end] - told.value) : 0;
  return scatter({
    mode: "markers",
    x: own.map(({ told }) => 100 * told.value),
    y: own.map(({ n }) => n),
    marker: {
      size: 11,
      color,
      symbol: significant ? "circle" : "circle-open",
      line: { width: 2, color },
    },
    error_x: {
      type: "data",
      symmetric: false,
      color,
      thickness: significant ? 2.5 : 1.5,
      width: 0,
      array: own.map(({ told }) => gap(told, "high")),
      arrayminus: own.map(({ told }) => gap(told, "low")),
    },
    hovertext: own.map(
      ({ id, told }) =>
        `<b>${safe(id)}</b><br>${points(told.value)} ` +
        `${interval(told, points)}<br>p ${safe(pValue(told.p))}, ` +
        `Holm ${safe(pValue(told.p_holm))}${told.significant ? "" : ", n.s."}`,
    ),
  });
}

function forestShapes(rows, range, half) {
  const bands = rows.flatMap(({ told }, n) =>
    isNumber(told.detectable)
      ? [
          {
            type: "rect",
            layer: "below",
            line: { width: 0 },
            fillcolor: ink("band"),
            x0: Math.max(-100 * told.detectable, range[0]),
            x1: Math.min(100 * told.detectable, range[1]),
            y0: n - half,
            y1: n + half,
          },
        ]
      : [],
  );
  return [
    ...bands,
    {
      type: "line",
      layer: "below",
      yref: "paper",
      x0: 0,
      x1: 0,
      y0: 0,
      y1: 1,
      line: { color: ink("edge"), width: 1.5 },
    },
  ];
}

function forestWords({ id, told }, n, narrow, left, width) {
  const words = `${points(told.value)} ${interval(told, points)}`;
  const all = told.significant ? `<b>${words}</b>` : `${words} n.s.`;
  const base = { showarrow: false, xref: "paper", yref: "y", y: n };
  if (!narrow) {
    return [
      { ...base, x: 0, xanchor: "right", xshift: -10, text: safe(fit(id, left - 14)) },
      { ...base, x: 1, xanchor: "left", xshift: 10, text: all },
    ];
  }
  const room = width - textWidth(`${words} n.s.`, 12) - 34;
  const size = { size: 12 };
  return [
    {
      ...base,
      x: 0,
      xanchor: "left",
      yshift: 18,
      font: size,
      text: safe(fit(id, room, 12)),
    },
    { ...base, x: 1, xanchor: "right", yshift: 18, font: size, text: all },
  ];
}

// Learning curves.

const drawn = () => shown().filter((one) => state.lines.has(one.id));

// The mean over seeds at each epoch that all of them reached.
function meanCurve(one, metric) {
  const curves = (one.curves ?? []).filter((curve) => curve[metric]?.length);
  if (!curves.length) return { epoch: [], value: [] };
  const length = Math.min(...curves.map((curve) => curve[metric].length));
  const epoch = curves[0].epoch.slice(0, length);
  return {
    epoch,
    value: epoch.map((_, n) => mean(curves.map((curve) => curve[metric][n]))),
  };
}

function drawCurves() {
  const select = $("curve-metric");
  const metric = select.value;
  const name = select.selectedOptions[0].textContent;
  const lossy = metric.endsWith("loss");
  const words = lossy ? (x) => fixed(x, 3) : (x) => `${percent(x)} %`;
  const rows = drawn()
    .map((one) => ({ one, line: meanCurve(one, metric) }))
    .filter(({ line }) => line.value.some(isNumber));
  figure("curve-chart", (width) =>
    rows.length
      ? {
          kind: `Learning curves, ${name} by epoch`,
          fact: curveFact(rows, name, lossy, words),
          table: curveTable(rows, name, words),
          ...curvePlot(rows, metric, name, width, words),
        }
      : {
          empty: drawn().length
            ? "There are no curves of the chosen experiments."
            : "No experiment is chosen for the curves.",
        },
  );
}

function curveFact(rows, name, lossy, words) {
  const ends = rows
    .map(({ one, line }) => {
      const known = line.value.filter(isNumber);
      const value = lossy ? Math.min(...known) : Math.max(...known);
      return { id: one.id, value, epoch: line.epoch[line.value.indexOf(value)] };
    })
    .sort((a, b) => (lossy ? a.value - b.value : b.value - a.value));
  const [best, ...rest] = ends;
  const base = rest.find(({ id }) => isBaseline(id));
  const tell = ({ id, value, epoch }) => `${id}, ${words(value)} at epoch ${epoch}`;
  return (
    `${lossy ? "Lowest" : "Highest"} mean ${name}: ${tell(best)}` +
    `${base ? `; ${tell(base)}` : ""}.`
  );
}

function curveTable(rows, name, words) {
  const epochs = [...new Set(rows.flatMap(({ line }) => line.epoch))].sort(
    (a, b) => a - b,
  );
  const columns = [
    { head: "Epoch", cell: (epoch) => String(epoch) },
    ...rows.map(({ one, line }) => ({
      head: one.id,
      cell: (epoch) => {
        const value = line.value[line.epoch.indexOf(epoch)];
        return isNumber(value) ? words(value) : "–";
      },
    })),
  ];
  return table("curves", `${name}: mean over seeds by epoch`, columns, epochs);
}

function curvePlot(rows, metric, name, width, words) {
  const scale = metric.endsWith("loss") ? 1 : 100;
  const traces = rows.flatMap(({ one, line }) => {
    const { color, dash, symbol } = look(one.id);
    const draw = (x, y) => ({
      x,
      y: y.map((value) => (isNumber(value) ? scale * value : null)),
      line: { color, dash, width: 2.5 },
    });
    const thin =
      one.curves.length < 2
        ? []
        : one.curves.map((curve) =>
            scatter({
              ...draw(curve.epoch, curve[metric] ?? []),
              mode: "lines",
              opacity: 0.35,
              line: { color, width: 1 },
              hoverinfo: "skip",
            }),
          );
    const strong = scatter({
      ...draw(line.epoch, line.value),
      mode: line.epoch.length > 60 ? "lines" : "lines+markers",
      marker: { size: 6, color, symbol },
      hovertext: line.epoch.map(
        (epoch, n) =>
          `<b>${safe(one.id)}</b><br>epoch ${epoch}: ` + words(line.value[n]),
      ),
    });
    return [...thin, strong];
  });
  const height = width < NARROW ? 320 : Math.min(520, Math.max(360, 0.42 * width));
  const unit = scale === 100 ? ", %" : "";
  const last = Math.max(1, ...rows.flatMap(({ line }) => line.epoch));
  return {
    traces,
    layout: layout(
      width,
      height,
      { l: 56, r: 12, t: 8, b: 48 },
      {
        xaxis: axis("epoch", {
          showgrid: false,
          range: [0.5, last + 0.5],
          ...(last > 12 ? {} : { tick0: 1, dtick: 1 }),
        }),
        yaxis: axis(`${name}${unit}`, {
          autorangeoptions: { minallowed: 0, ...(unit && { maxallowed: 100 }) },
        }),
      },
    ),
  };
}

// Points whose labels stand in a column at the right, each led to by a thin line.

function spread(wanted, gap, low, high) {
  const order = wanted.map((_, n) => n).sort((a, b) => wanted[a] - wanted[b]);
  const at = [...wanted];
  order.forEach((n, k) => {
    at[n] = Math.max(at[n], k ? at[order[k - 1]] + gap : low);
  });
  order.reverse().forEach((n, k) => {
    at[n] = Math.min(at[n], k ? at[order[k - 1]] - gap : high);
  });
  return at;
}

function plane(dots, width, height) {
  const narrow = width < NARROW;
  const label = (dot, n) => (narrow ? String(n + 1) : fit(dot.id, 0.25 * width));
  const labels = dots.map(label);
  const room = Math.max(...labels.map((text) => textWidth(text))) + 34;
  const margin = { l: 56, r: room, t: 12, b: 48 };
  const inner = [width - margin.l - margin.r, height - margin.t - margin.b];
  const { x, y } = spans(dots);
  const pixelX = (value) => (inner[0] * (value - x[0])) / (x[1] - x[0]);
  const pixelY = (value) => (inner[1] * (y[1] - value)) / (y[1] - y[0]);
  const at = spread(
    dots.map((dot) => pixelY(dot.y)),
    17,
    6,
    inner[1] - 6,
  );
  const annotations = dots.map((dot, n) => ({
    x: dot.x,
    y: dot.y,
    ax: inner[0] + 14 - pixelX(dot.x),
    ay: at[n] - pixelY(dot.y),
    text: safe(labels[n]),
    xanchor: "left",
    ...LEADER,
    arrowcolor: ink("edge"),
  }));
  const items = () => dots.map((dot) => el("li", {}, named(dot.id)));
  const key = narrow ? [el("ol", { class: "numbers" }, ...items())] : [];
  return { margin, x, y, annotations, key };
}

const LEADER = {
  showarrow: true,
  arrowhead: 0,
  arrowwidth: 0.7,
  standoff: 7,
  borderpad: 1,
};

// What the axes span: all points, with their intervals or the tails of their arrows.
function spans(dots) {
  const span = (values, least) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = Math.max(least, 0.1 * (high - low));
    return [low < 0 ? low - pad : Math.max(0, low - pad), high + pad];
  };
  const tails = dots.flatMap((dot) => (dot.from ? [dot.from] : []));
  const ends = dots.flatMap((dot) => dot.ends ?? []);
  return {
    x: span([...dots.map((dot) => dot.x), ...tails.map(([at]) => at)], dots[0].padX),
    y: span([...dots.map((dot) => dot.y), ...tails.map(([, at]) => at), ...ends], 1),
  };
}

const planeHeight = (dots, width) =>
  Math.max(17 * dots.length + 80, width < NARROW ? 340 : Math.min(520, 0.45 * width));

function markers(dots) {
  return scatter({
    mode: "markers",
    x: dots.map((dot) => dot.x),
    y: dots.map((dot) => dot.y),
    hovertext: dots.map((dot) => dot.words),
    marker: {
      size: 10,
      color: dots.map((dot) => look(dot.id).color),
      symbol: dots.map((dot) => look(dot.id).symbol),
    },
  });
}

// Precision against recall of one emotion. An arrow starts at the baseline of the
// experiment's own data, which is where its differences lead back to.

function drawTrade() {
  const name = $("trade-emotion").value;
  $("trade-how").textContent =
    (baselineShown()
      ? "Each arrow leads from the baseline to an experiment: "
      : "Each point is one " + "experiment: ") +
    "to the right, more faces of this emotion are found (recall); " +
    "upwards, more of those so named are right (precision). Along a dotted line F1 " +
    "stays the same.";
  const dots = shown()
    .map((one) => ({
      id: one.id,
      padX: 1,
      x: 100 * score(one.id, `recall_${name}`)?.value,
      y: 100 * score(one.id, `precision_${name}`)?.value,
    }))
    .filter((dot) => isNumber(dot.x) && isNumber(dot.y));
  for (const dot of dots) {
    const [dx, dy] = ["recall", "precision"].map(
      (kind) => difference(dot.id, `${kind}_${name}`)?.value,
    );
    if (isNumber(dx) && isNumber(dy)) dot.from = [dot.x - 100 * dx, dot.y - 100 * dy];
    dot.words =
      `<b>${safe(dot.id)}</b><br>recall ${fixed(dot.x)} %, ` +
      `precision ${fixed(dot.y)} %`;
  }
  figure("trade-chart", (width) =>
    dots.length
      ? {
          kind: `Precision against recall of ${name} on ${state.split}`,
          fact: tradeFact(dots, name),
          table: tradeTable(dots, name),
          ...tradePlot(dots, width),
        }
      : { empty: "There are no scores of this emotion to show." },
  );
}

function tradeFact(dots, name) {
  const led = dots.filter((dot) => dot.from);
  if (!led.length) {
    return (
      `${name}: ${dots[0].id} has recall ${fixed(dots[0].x)} %, ` +
      `precision ${fixed(dots[0].y)} %.`
    );
  }
  const moved = led
    .map((dot) => ({ ...dot, dx: dot.x - dot.from[0], dy: dot.y - dot.from[1] }))
    .sort((a, b) => Math.abs(b.dx) - Math.abs(a.dx))[0];
  return (
    `${name}: ${moved.id} moves recall most, by ${points(moved.dx / 100)} points, ` +
    `with ${points(moved.dy / 100)} points of precision.`
  );
}

function tradeTable(dots, name) {
  const both = (kind) => [
    { head: capital(kind), cell: ({ id }) => scoreCell(id, `${kind}_${name}`) },
    ...(baselineShown()
      ? [
          {
            head: "vs baseline",
            cell: ({ id }) => differenceCell(difference(id, `${kind}_${name}`)),
          },
        ]
      : []),
  ];
  const columns = [
    { head: "Experiment", text: true, cell: ({ id }) => named(id) },
    ...both("recall"),
    ...both("precision"),
  ];
  return table(
    "trade",
    `${name} on ${state.split}: recall and precision, in %`,
    columns,
    dots,
  );
}

function tradePlot(dots, width) {
  const height = planeHeight(dots, width);
  const { margin, x, y, annotations, key } = plane(dots, width, height);
  const arrows = dots
    .filter((dot) => dot.from)
    .map((dot) => ({
      x: dot.x,
      y: dot.y,
      ax: dot.from[0],
      ay: dot.from[1],
      axref: "x",
      ayref: "y",
      text: "",
      showarrow: true,
      arrowhead: 2,
      arrowsize: 1.1,
      arrowwidth: 1.8,
      arrowcolor: look(dot.id).color,
      standoff: 3,
      startstandoff: 5,
    }));
  const lines = sameF1(x, y);
  return {
    key,
    traces: [...lines.traces, markers(dots)],
    layout: layout(width, height, margin, {
      xaxis: axis("recall, %", { range: x }),
      yaxis: axis("precision, %", { range: y }),
      annotations: [...lines.words, ...annotations, ...arrows],
    }),
  };
}

// The lines along which F1 stays the same, as far as they cross the plot.
function sameF1(x, y) {
  const step = Math.max(x[1] - x[0], y[1] - y[0]) > 30 ? 10 : 5;
  const [traces, words] = [[], []];
  for (let f1 = step; f1 < 100; f1 += step) {
    const places = Array.from({ length: 61 }, (_, n) => x[0] + ((x[1] - x[0]) * n) / 60)
      .map((recall) => [recall, (f1 * recall) / (2 * recall - f1)])
      .filter(([recall, at]) => 2 * recall > f1 && at >= y[0] && at <= y[1]);
    if (places.length < 6) continue;
    traces.push(
      scatter({
        mode: "lines",
        hoverinfo: "skip",
        x: places.map(([a]) => a),
        y: places.map(([, b]) => b),
        line: { color: ink("edge"), width: 1, dash: "dot" },
      }),
    );
    words.push({
      x: places[2][0],
      y: places[2][1],
      text: `F1 ${f1}`,
      showarrow: false,
      font: { size: 11, color: ink("soft") },
      bgcolor: ink("ground"),
      borderpad: 1,
    });
  }
  return { traces, words };
}

// Calibration. Among fewer predictions the share that is right is noise, for the table.

const FEWEST = 10;

function drawCalibration() {
  const rows = drawn()
    .map((one) => ({ id: one.id, told: split().calibration?.[one.id] }))
    .filter(({ told }) => told?.bins?.length);
  figure("calibration-chart", (width) =>
    rows.length
      ? {
          kind: `Reliability curves on ${state.split}`,
          fact: calibrationFact(rows),
          table: binTable(rows),
          ...calibrationPlot(rows, width),
        }
      : { empty: "There is no calibration to show for the chosen experiments." },
  );
  eceTable();
}

function calibrationFact(rows) {
  const order = rows
    .filter(({ told }) => isNumber(told.ece))
    .sort((a, b) => a.told.ece - b.told.ece);
  if (!order.length) return "Reliability of the chosen experiments.";
  const tell = ({ id, told }) =>
    `${id}, ${percent(told.ece)} % ${interval(told)}`.trim();
  const last = order.length > 1 ? `; largest: ${tell(order.at(-1))}` : "";
  return `Smallest calibration error (ECE): ${tell(order[0])}${last}.`;
}

function binTable(rows) {
  const bins = rows.flatMap(({ id, told }) => told.bins.map((bin) => ({ id, ...bin })));
  const columns = [
    { head: "Experiment", text: true, cell: (bin) => named(bin.id) },
    { head: "Mean confidence", cell: (bin) => percent(bin.confidence) },
    { head: "Right", cell: (bin) => percent(bin.accuracy) },
    { head: "Predictions", cell: (bin) => whole(bin.count) },
  ];
  return table(
    "bins",
    `Reliability on ${state.split} by confidence, in %`,
    columns,
    bins,
  );
}

function eceTable() {
  const rows = shown()
    .map((one) => ({ id: one.id, told: split().calibration?.[one.id] }))
    .filter(({ told }) => isNumber(told?.ece));
  const spreads = rows.some(({ told }) => isNumber(told.sd));
  const sd = {
    head: "Sd over seeds",
    least: true,
    sort: ({ told }) => told.sd,
    cell: ({ told }) => percent(told.sd),
  };
  const columns = [
    nameColumn,
    {
      head: "ECE",
      least: true,
      sort: ({ told }) => told.ece,
      cell: ({ told }) => withInterval(percent(told.ece), interval(told)),
    },
    ...(spreads ? [sd] : []),
  ];
  const caption = `Expected calibration error (ECE) on ${state.split}, in %`;
  $("calibration-table").replaceChildren(
    ...(rows.length ? [table("ece", caption, columns, rows)] : []),
  );
}

function calibrationPlot(rows, width) {
  const height = width < NARROW ? 420 : 540;
  const line = { color: ink("edge"), width: 1.5, dash: "dot" };
  const diagonal = {
    type: "line",
    x0: 0,
    y0: 0,
    x1: 100,
    y1: 100,
    layer: "below",
    line,
  };
  const margin = { l: 64, r: 12, t: 8, b: 48 };
  return {
    traces: rows.flatMap((row) => calibrationTraces(row, width < NARROW ? 6 : 9)),
    layout: layout(Math.min(width, 820), height, margin, {
      xaxis: axis("stated confidence, %", { range: [0, 102], anchor: "y2" }),
      yaxis: axis("right, %", { range: [0, 104], domain: [0.3, 1] }),
      yaxis2: axis("predictions", {
        domain: [0, 0.22],
        rangemode: "tozero",
        nticks: 4,
      }),
      shapes: [diagonal],
    }),
  };
}

// One experiment's curve, its markers by the number of predictions, and those numbers.
function calibrationTraces({ id, told }, growth) {
  const { color, dash, symbol } = look(id);
  const bins = told.bins.filter(
    (bin) => bin.count >= FEWEST && isNumber(bin.confidence) && isNumber(bin.accuracy),
  );
  const most = Math.max(...bins.map((bin) => bin.count));
  const size = bins.map((bin) => 4 + growth * Math.sqrt(bin.count / most));
  const shared = {
    mode: "lines+markers",
    x: bins.map((bin) => 100 * bin.confidence),
    hovertext: bins.map(
      (bin) =>
        `<b>${safe(id)}</b><br>stated ` +
        `${percent(bin.confidence)} %, right ${percent(bin.accuracy)} %<br>` +
        count(bin.count, "prediction"),
    ),
  };
  return [
    scatter({
      ...shared,
      y: bins.map((bin) => 100 * bin.accuracy),
      line: { color, dash, width: 2 },
      marker: { color, symbol, size, opacity: 1 },
    }),
    scatter({
      ...shared,
      y: bins.map((bin) => bin.count),
      yaxis: "y2",
      line: { color, dash, width: 1.5 },
      marker: { color, symbol, size: 5 },
    }),
  ];
}

// Time against score.

function drawCost() {
  const dots = shown()
    .map((one) => {
      const told = score(one.id, "macro_f1");
      return {
        id: one.id,
        x: one.minutes,
        y: isNumber(told?.value) ? 100 * told.value : null,
        told,
        padX: 0.02 * (one.minutes || 1),
        ends: [told?.low, told?.high].filter(isNumber).map((end) => 100 * end),
        words:
          `<b>${safe(one.id)}</b><br>${fixed(one.minutes)} min, macro F1 ` +
          `${percent(told?.value)} % ${interval(told)}`,
      };
    })
    .filter((dot) => isNumber(dot.x) && isNumber(dot.y));
  figure("cost-chart", (width) =>
    dots.length
      ? {
          kind: `Minutes of training against macro F1 on ${state.split}`,
          fact: costFact(dots),
          table: costDotTable(dots),
          ...costPlot(dots, width),
        }
      : { empty: "There are no times to show." },
  );
  drawCostTable();
}

function costFact(dots) {
  const tell = ({ id, x, y }) => `${id}, ${fixed(y)} % in ${fixed(x)} minutes`;
  const best = dots.reduce((a, b) => (b.y > a.y ? b : a));
  const fast = dots.reduce((a, b) => (b.x < a.x ? b : a));
  const rest = fast === best ? " (also the fastest)" : `; fastest: ${tell(fast)}`;
  return `Highest macro F1: ${tell(best)}${dots.length > 1 ? rest : ""}.`;
}

function costDotTable(dots) {
  const columns = [
    { head: "Experiment", text: true, cell: ({ id }) => named(id) },
    { head: "Minutes", cell: ({ x }) => fixed(x) },
    { head: "Macro F1", cell: ({ id }) => scoreCell(id, "macro_f1") },
  ];
  return table("cost-dots", `Minutes and macro F1 on ${state.split}`, columns, dots);
}

function costPlot(dots, width) {
  const height = planeHeight(dots, width);
  const { margin, x, y, annotations, key } = plane(dots, width, height);
  const bars = scatter({
    mode: "markers",
    hoverinfo: "skip",
    x: dots.map((dot) => dot.x),
    y: dots.map((dot) => dot.y),
    marker: { size: 1, color: ink("edge") },
    error_y: {
      type: "data",
      symmetric: false,
      width: 0,
      thickness: 1,
      color: ink("edge"),
      array: dots.map((dot) => (dot.ends[1] ?? dot.y) - dot.y),
      arrayminus: dots.map((dot) => dot.y - (dot.ends[0] ?? dot.y)),
    },
  });
  return {
    key,
    traces: [bars, markers(dots)],
    layout: layout(width, height, margin, {
      xaxis: axis("minutes of training", { range: x }),
      yaxis: axis("macro F1, %", { range: y }),
      annotations,
    }),
  };
}
