// The parts in words: what is compared, the answers, what is missing, the method.

const VERDICTS = {
  better: "▲",
  worse: "▼",
  mixed: "◆",
  "n.s.": "◇",
};

function list(name, items) {
  return el(
    "ul",
    { class: name },
    ...items.map((item) => el("li", {}, ...[item].flat())),
  );
}

function drawAbout() {
  const runs = scored().reduce((sum, one) => sum + one.seeds.length, 0);
  const { n, identical, selected_here: selected } = split();
  const twice = identical ? `, of which ${whole(identical)} occur more than once` : "";
  const facts = [
    `${count(runs, "run")} of ${count(scored().length, "experiment")}, scored on ` +
      `${state.split}: ${count(n, "image")}${twice}`,
    content.baseline === null
      ? "There is no baseline among the runs: no differences"
      : `Baseline: ${content.baseline}`,
    ...content.data.map(
      ({ mark, description, fingerprint }) =>
        `Data${mark ? ` [${mark}]` : ""}: ${description}, fingerprint ${fingerprint}`,
    ),
    `Written ${content.written}`,
  ];
  const drawn = content.data.some((data) => data.source === "embedded");
  $("about").replaceChildren(
    list("facts", facts),
    ...content.data
      .flatMap((data) => data.notes ?? [])
      .map((note) => el("p", { class: "soft" }, note)),
    ...(drawn
      ? [warning("Drawn faces, not photographs: no evidence about real data.")]
      : []),
    ...(selected
      ? [
          warning(
            `${state.split} selected the checkpoints: its figures are ` + "optimistic.",
          ),
        ]
      : []),
  );
}

const warning = (text) => el("p", { class: "warning" }, text);

function drawAnswers() {
  const findings = split().findings ?? [];
  const item = ({ question, answer, verdict }) => {
    const sign = VERDICTS[verdict];
    const kind = sign === "▲" || sign === "▼" ? verdict : "";
    const tag = sign
      ? el(
          "strong",
          { class: `tag ${kind}` },
          el("span", { "aria-hidden": "true" }, `${sign} `),
          verdict,
        )
      : null;
    return el(
      "div",
      {},
      el("dt", {}, question),
      el("dd", {}, ...(tag ? [tag, " "] : []), answer),
    );
  };
  body("answers").replaceChildren(
    findings.length
      ? el("dl", { class: "answers" }, ...findings.map(item))
      : el("p", {}, "These runs ask no question of each other: see the tables."),
  );
}

function drawTrouble() {
  const without = experiments.filter((one) => !split().scores?.[one.id]);
  const parts = [
    [
      "Failed",
      content.failed.map(({ run, error }) => [el("b", {}, run), `: ${error}`]),
    ],
    ["Not finished", content.unfinished],
    [`Without results on ${state.split}`, without.map((one) => one.id)],
  ].filter(([, items]) => items.length);
  $("trouble").hidden = parts.length === 0;
  body("trouble").replaceChildren(
    ...parts.flatMap(([head, items]) => [el("h3", {}, head), list(null, items)]),
  );
}

function drawMethod() {
  const charts = window.Plotly
    ? `, charts by plotly.js ${window.Plotly.version} (MIT)`
    : "";
  body("method").replaceChildren(
    list(null, split().notes ?? []),
    el("p", {}, "By fer_jax ", content.version, charts, ", with:"),
    scroller("The command", el("code", {}, content.command)),
  );
}
