import base64
import csv
import gzip
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from plotly.offline import get_plotlyjs

from fer_jax.compare.content import plain
from fer_jax.compare.report import render, write_report
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "fer_jax/compare/page"
HOSTILE = "</script><img src=x onerror=document.title='broken'>&<b>'\"\u2028"
OVERALL = ("accuracy", "macro_f1", "balanced_accuracy")
NAMES = ("baseline", "lr_low", "lr_high", "loss_focal")


def metrics(emotions):
    kinds = ("f1", "precision", "recall")
    return [*OVERALL, *(f"{kind}_{name}" for name in emotions for kind in kinds)]


def make_split(rng, names, emotions, *, base, baseline, n=700, seeds=3):
    """One split of the content: `base` is roughly the scores' height."""
    keys = metrics(emotions)
    values = {
        name: {key: base + 0.06 * rng.normal() / (1 + (key in OVERALL)) for key in keys}
        for name in names
    }
    scores = {
        name: {
            key: {
                "value": value,
                "low": value - 0.02,
                "high": value + 0.02,
                "sd": abs(0.006 * rng.normal()) if seeds > 1 else None,
            }
            for key, value in own.items()
        }
        for name, own in values.items()
    }
    differences = {
        name: {
            key: make_difference(own[key] - values[baseline][key], rng) for key in keys
        }
        for name, own in values.items()
        if baseline in values and name != baseline
    }
    f1 = {name: [own[f"f1_{e}"] for e in emotions] for name, own in values.items()}
    best = []
    for place, emotion in enumerate(emotions):
        order = sorted(names, key=lambda name: -f1[name][place])
        runner_up = order[1] if len(order) > 1 else None
        margin = f1[order[0]][place] - f1[runner_up][place] if runner_up else None
        best.append(
            {
                "emotion": emotion,
                "id": order[0],
                "value": f1[order[0]][place],
                "runner_up": runner_up,
                "margin": make_difference(margin, rng) if runner_up else None,
            }
        )
    count = n // len(emotions)
    return {
        "n": count * len(emotions),
        "support": {name: count - 3 * k for k, name in enumerate(emotions)},
        "identical": 12,
        "selected_here": base < 0.8,
        "findings": [
            {
                "question": f"Does {name} help?",
                "answer": f"N.s.: {name} moves macro F1 by less than its interval "
                "is wide; fear and disgust stay where they are.",
                "verdict": ("better", "worse", "n.s.", "mixed")[k % 4],
                "experiments": [name],
            }
            for k, name in enumerate(names[1:5])
        ],
        "notes": [
            "Intervals: 95 % bootstrap over images and seeds, 2,000 draws.",
            "Tests: paired permutation over images; p-values by Holm.",
        ],
        "scores": scores,
        "differences": differences,
        "confusion": {
            name: make_confusion(rng, len(emotions), seeds * count) for name in names
        },
        "calibration": {name: make_calibration(rng) for name in names},
        "best": best,
    }


def make_difference(value, rng):
    real = abs(value) > 0.04
    p = 0.0004 if real else float(rng.uniform(0.06, 1))
    return {
        "value": value,
        "low": value - 0.03,
        "high": value + 0.03,
        "p": p,
        "p_holm": min(1.0, 11 * p) if not real else 0.0044,
        "detectable": 0.025 + 0.01 * float(rng.random()),
        "significant": real,
        "test": "permutation",
    }


def make_confusion(rng, size, count):
    return [
        rng.multinomial(
            count, np.where(np.arange(size) == row, 1 + 4.0 * size, 1) / (5 * size + 0)
        ).tolist()
        if size > 1
        else [count]
        for row in range(size)
    ]


def make_calibration(rng):
    middle = np.linspace(0.25, 0.95, 8)
    return {
        "ece": 0.03 + 0.02 * float(rng.random()),
        "low": 0.02,
        "high": 0.06,
        "bins": [
            {
                "confidence": float(at),
                "accuracy": float(np.clip(at - 0.05 + 0.05 * rng.normal(), 0, 1)),
                "count": int(20 + 300 * at**2),
            }
            for at in middle
        ],
    }


def make_curves(rng, seeds, epochs):
    curves = []
    for seed in range(42, 42 + seeds):
        epoch = np.arange(1, epochs + 1 - int(rng.integers(4)))
        rise = 1 - np.exp(-epoch / 6) + 0.01 * rng.normal(size=len(epoch))
        curves.append(
            {
                "seed": seed,
                "epoch": epoch.tolist(),
                "train_loss": (2 - 1.4 * rise).tolist(),
                "val_loss": (2 - 1.2 * rise).tolist(),
                "val_accuracy": (0.82 * rise).tolist(),
                "val_macro_f1": (0.8 * rise).tolist(),
            }
        )
    return curves


def make_content(
    names=NAMES,
    emotions=EMOTIONS,
    *,
    seeds=3,
    epochs=30,
    splits=("val", "test"),
    baseline="baseline",
    **changes,
):
    """The content of a report on random figures; `changes` replace what they name."""
    rng = np.random.default_rng(7)
    content = {
        "title": f"fer_jax: {len(names)} experiments",
        "written": "2026-11-24 23:59 UTC",
        "command": "bin/compare --split test --report report.html",
        "version": "0.1.0",
        "split": splits[-1],
        "emotions": list(emotions),
        "baseline": baseline,
        "data": [
            {
                "mark": "",
                "description": "embedded set (drawn faces)",
                "fingerprint": "9433e98cf34b51b9",
                "source": "embedded",
                "notes": [],
            }
        ],
        "experiments": [
            {
                "id": name,
                "description": f"What does {name} bring to the rare emotions?",
                "seeds": [*range(42, 42 + seeds)],
                "changes": []
                if name == baseline
                else [{"key": "training.lr", "baseline": "0.0003", "value": "0.001"}],
                "best_epoch": 20 + float(rng.random()) * 5,
                "epochs_run": 28.0,
                "epochs": epochs,
                "minutes": 3 + 3 * float(rng.random()),
                "images_per_s": 391.2,
                "device": "cpu",
                "parameters": 662439,
                "curves": make_curves(rng, seeds, epochs),
            }
            for name in names
        ],
        "failed": [],
        "unfinished": [],
        "splits": {
            split: make_split(
                rng,
                names,
                emotions,
                base={"val": 0.76, "test": 0.82}[split],
                baseline=baseline,
                seeds=seeds,
            )
            for split in splits
        },
    }
    return content | changes


# What Python writes.


def embedded(page):
    """The JSON in a page, as a browser takes it: up to the first closing tag."""
    _, _, rest = page.partition('<script type="application/json" id="content">')
    return json.loads(rest.partition("</script>")[0])


def without_plotly(page):
    head, mark, _ = page.partition('id="plotly">')
    assert mark
    return head


def test_hostile_names_stay_data():
    content = make_content(
        ("baseline", HOSTILE, "@@script@@"), ("x", HOSTILE), title=HOSTILE
    )
    page = without_plotly(render(content))
    told = embedded(page)
    assert [one["id"] for one in told["experiments"]][1:] == [HOSTILE, "@@script@@"]
    assert told["title"] == HOSTILE
    assert "<img" not in page
    assert page.count("</script>") == 2  # of the data and of the script
    assert "\u2028" not in page.partition("application/json")[2]


def test_what_json_and_utf8_cannot_hold_is_written():
    content = make_content(("a\udce9",), baseline=None, title="\udce9")
    content["experiments"][0]["minutes"] = float("nan")
    content = plain(content)
    told = embedded(render(content))
    assert told["experiments"][0]["minutes"] is None
    assert told["experiments"][0]["id"] == "a\udce9"
    render(content).encode()


def test_answers_are_there_without_scripts():
    content = make_content()
    page = without_plotly(render(content))
    shown = page.partition("<noscript>")[2].partition("</noscript>")[0]
    split = content["splits"]["test"]
    for key in ("question", "answer", "verdict"):
        assert split["findings"][0][key] in shown


def test_page_has_no_address_and_allows_no_loading():
    page = without_plotly(render(make_content()))
    addresses = [part.split('"')[0] for part in page.split("://")[1:]]
    assert addresses == ["www.w3.org/2000/svg"]  # SVG's namespace, never loaded
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy and "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].split(";")[0]


def test_plotly_goes_in_whole_with_its_licence():
    page = render(make_content(("a",), baseline=None))
    packed = page.partition('id="plotly">')[2].partition("</script>")[0]
    text = gzip.decompress(base64.b64decode(packed)).decode()
    assert "Licensed under the MIT license" in text[:200]
    assert text == get_plotlyjs()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert digest in page.partition("</head>")[0]


def test_twelve_experiments_of_five_seeds_stay_below_5_mb():
    names = ("baseline", *(f"experiment_{k}" for k in range(11)))
    page = render(make_content(names, seeds=5, epochs=50))
    assert len(page.encode()) < 5_000_000


def test_report_replaces_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    content = make_content(("a",), baseline=None)
    write_report(path, content)
    assert path.read_text("utf-8") == render(content)

    def full(self, *args, **options):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path.write_text("old")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        write_report(path, content)
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_report_into_no_folder_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written: No such file"):
        write_report(tmp_path / "none" / "report.html", make_content(("a",)))


# What a browser shows.


class Browser:
    """Chromium, with a page of a made content open."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def open(self, content, *, width=1280, height=900):
        path = self.folder / "report.html"
        write_report(path, content)
        self.size(width, height)
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        start = time.perf_counter()
        self.driver.get(path.as_uri())
        self.until("document.documentElement.dataset.ready !== undefined")
        assert self.js("return document.documentElement.dataset.ready") == "charts"
        return time.perf_counter() - start

    def size(self, width, height=900):
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def cdp(self, name, **options):
        return self.driver.execute_cdp_cmd(name, options)

    def js(self, code, *args):
        return self.driver.execute_script(code, *args)

    def until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not self.js(f"return {condition}"):
            assert time.monotonic() < end, f"never so: {condition}"
            time.sleep(0.05)

    def click(self, selector):
        self.js("document.querySelector(arguments[0]).click()", selector)

    def texts(self, selector):
        code = (
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        )
        return self.js(code, selector)

    def choose(self, selector, value):
        self.js(
            "const one = document.querySelector(arguments[0]);"
            "one.value = arguments[1];"
            "one.dispatchEvent(new Event('change'))",
            selector,
            value,
        )

    def errors(self):
        levels = ("SEVERE", "WARNING")
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] in levels]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium() as driver:
        yield Browser(driver, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(browser):
    """One page of four experiments, for the tests that leave it as it was."""
    browser.content = make_content()
    browser.open(browser.content)
    return browser


def test_page_opens_alone_and_without_a_complaint(browser):
    seconds = browser.open(
        make_content(
            ("baseline", *(f"experiment_{k}" for k in range(11))), seeds=5, epochs=50
        )
    )
    size = (browser.folder / "report.html").stat().st_size
    print(f"12 experiments of 5 seeds: {size / 1e6:.2f} MB, open in {seconds:.2f} s")
    assert browser.errors() == []
    sent = [
        message["params"]["request"]["url"].split(":")[0]
        for entry in browser.driver.get_log("performance")
        for message in [json.loads(entry["message"])["message"]]
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert sent.count("file") == 1
    assert set(sent) <= {"file", "blob", "data"}
    assert len(browser.texts("#overall tbody tr")) == 12
    drawn = "return document.querySelectorAll('[data-chart] .main-svg').length"
    assert browser.js(drawn) >= 5


def test_verdicts_are_told_by_sign_and_word(page):
    told = page.texts("#answers dd")
    assert [text.split(" N.s.:")[0].strip() for text in told] == [
        "▲ better",
        "▼ worse",
        "◇ n.s.",
    ]


def test_split_switch_changes_the_numbers(page):
    def told():
        return page.texts("#overall tbody td:nth-child(4)")[0].split()[0]

    def expected(split):
        scores = page.content["splits"][split]["scores"]
        return f"{100 * scores['baseline']['macro_f1']['value']:.1f}"

    assert told() == expected("test") != expected("val")
    assert "selected the checkpoints" not in page.texts("#about")[0]
    page.click("#split input[value=val]")
    assert told() == expected("val")
    assert "val selected the checkpoints" in page.texts("#about")[0]
    assert "on val" in page.js(
        "return document.querySelector('#differences .plot').ariaLabel"
    )
    page.click("#split input[value=test]")
    assert told() == expected("test")


def test_emotions_switch_between_scores_and_differences(page):
    def cells():
        return page.texts("#emotions .heat tbody tr:last-child td")

    def colours():
        return page.js(
            "return [...document.querySelectorAll('#emotions .heat tr:last-child td')]"
            ".map(cell => cell.style.backgroundColor)"
        )

    split = page.content["splits"]["test"]
    f1 = split["scores"]["loss_focal"]["f1_angry"]["value"]
    assert cells()[0] == f"{100 * f1:.1f}"
    before = colours()
    page.click("#emotion-metric input[value=recall]")
    recall = split["scores"]["loss_focal"]["recall_angry"]["value"]
    assert cells()[0] == f"{100 * recall:.1f}"
    page.click("#emotion-mode input[value=difference]")
    change = split["differences"]["loss_focal"]["recall_angry"]
    told = f"{100 * change['value']:+.1f}".replace("-", "−")
    assert cells()[0].split()[0] == told
    assert ("n.s." in cells()[0]) is not change["significant"]
    assert colours() != before
    assert "baseline" not in page.texts("#emotions .heat tbody th")
    page.click("#emotion-metric input[value=f1]")
    page.click("#emotion-mode input[value=score]")
    assert colours() == before


def test_table_sorts_by_click_and_by_keys(page):
    from selenium.webdriver.common.keys import Keys

    scores = page.content["splits"]["test"]["scores"]
    falling = sorted(NAMES, key=lambda name: -scores[name]["macro_f1"]["value"])
    heading = "#overall thead th:nth-child(4)"

    def order():
        return [name.strip() for name in page.texts("#overall tbody th")]

    def sort():
        return page.js(f"return document.querySelector('{heading}').ariaSort")

    assert (order(), sort()) == ([*NAMES], "none")
    page.click(f"{heading} button")
    assert (order(), sort()) == (falling, "descending")
    button = page.driver.find_element("css selector", f"{heading} button")
    button.send_keys(Keys.ENTER)
    assert (order(), sort()) == (falling[::-1], "ascending")
    button.send_keys(Keys.SPACE)
    assert (order(), sort()) == (falling, "descending")
    first = "#overall thead th:first-child"
    page.click(f"{first} button")
    assert order() == sorted(NAMES)
    assert sort() == "none"


def test_choice_removes_rows_and_series(page):
    def traces(chart):
        return page.js(
            f"return document.querySelector('[data-chart={chart}] .plot').data"
            ".reduce((sum, trace) => sum + trace.x.length, 0)"
        )

    def rows(section):
        return [name.strip() for name in page.texts(f"#{section} tbody th")]

    assert traces("difference-chart") == 3
    curves = traces("curve-chart")
    page.click("#choice-list input[value=lr_high]")
    assert "lr_high" not in rows("overall") + rows("emotions") + rows("cost-table")
    assert traces("difference-chart") == 2
    assert traces("curve-chart") < curves
    assert "lr_high" not in page.texts("#curve-keys")[0]
    page.click("#choose-none")
    assert rows("overall") == []
    page.click("#choose-all")
    assert traces("difference-chart") == 3
    assert sorted(rows("overall")) == sorted(NAMES)
    page.click("#curve-keys input[value=baseline]")
    assert traces("curve-chart") < curves
    both = "#calibration-keys input[value=baseline]"
    assert not page.js(f"return document.querySelector('{both}').checked")
    page.click(both)
    assert traces("curve-chart") == curves
    assert page.errors() == []


def test_chart_follows_its_metric_and_says_what_it_shows(page):
    differences = page.content["splits"]["test"]["differences"]

    def first_point():
        data = "document.querySelector('#differences .plot').data"
        return sorted(x for xs in page.js(f"return {data}.map(t => t.x)") for x in xs)

    for metric in ("recall_fear", "macro_f1"):
        page.choose("#difference-metric", metric)
        values = sorted(100 * own[metric]["value"] for own in differences.values())
        assert first_point() == pytest.approx(values, abs=1e-3)
    label = page.js("return document.querySelector('#differences .plot').ariaLabel")
    real = sum(own["macro_f1"]["significant"] for own in differences.values())
    assert f"{real or 'None'} of 3 differences" in label
    best = max(values)
    assert f"{best:+.1f}".replace("-", "−") in label


def test_confusions_show_counts_rates_and_their_difference(page):
    confusion = page.content["splits"]["test"]["confusion"]

    def first_cell():
        return page.texts("#confusions .heat tbody td")[0]

    left, right = (np.array(confusion[name]) for name in ("baseline", "loss_focal"))
    rates = [100 * counts[0, 0] / counts[0].sum() for counts in (left, right)]
    page.choose("#confusion-right", "loss_focal")
    assert first_cell() == f"{rates[0]:.1f}"
    page.click("#confusion-mode input[value=counts]")
    assert first_cell() == str(left[0, 0])
    page.click("#confusion-mode input[value=difference]")
    assert first_cell() == f"{rates[1] - rates[0]:+.1f}".replace("-", "−")
    page.click("#confusion-mode input[value=rates]")


def test_csv_holds_what_is_shown(page, tmp_path):
    page.cdp(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path)
    )
    page.click("#choice-list input[value=lr_low]")
    page.click("#csv")
    path = tmp_path / "comparison_test.csv"
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, "no file was saved"
        time.sleep(0.05)
    page.click("#choose-all")
    with path.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    names = [name for name in NAMES if name != "lr_low"]
    assert len(rows) == len(names) * len(metrics(EMOTIONS))
    assert {row["experiment"] for row in rows} == {*names}
    split = page.content["splits"]["test"]
    for row in rows:
        own = split["scores"][row["experiment"]][row["metric"]]
        assert float(row["value"]) == pytest.approx(own["value"], rel=1e-5)
        if row["experiment"] == "baseline":
            assert row["difference"] == row["p_holm"] == ""
        else:
            versus = split["differences"][row["experiment"]][row["metric"]]
            assert float(row["difference"]) == pytest.approx(versus["value"], rel=1e-5)
            assert row["significant"] == str(versus["significant"]).lower()


def test_dark_follows_the_system_and_the_button(page):
    def colours():
        return page.js(
            "const plot = document.querySelector('#differences .plot');"
            "return [getComputedStyle(document.body).backgroundColor,"
            "plot.layout.paper_bgcolor, plot.layout.font.color]"
        )

    def system(value):
        feature = {"name": "prefers-color-scheme", "value": value}
        page.cdp("Emulation.setEmulatedMedia", features=[feature])

    system("light")
    light = colours()
    system("dark")
    page.until("document.querySelector('#theme').ariaPressed === 'true'")
    dark = colours()
    assert all(one != other for one, other in zip(light, dark, strict=True))
    page.click("#theme")
    assert colours() == light
    page.click("#theme")
    assert colours() == dark
    system("light")


CHECKS = """
const faults = [];
const all = (selector) => [...document.querySelectorAll(selector)];
const ids = all("[id]").map((one) => one.id);
const twice = ids.filter((id, n) => ids.indexOf(id) !== n);
if (twice.length) faults.push(`ids twice: ${twice}`);
for (const one of all('[role="img"], [role="region"], nav')) {
  if (one.closest("[hidden]") || one.ariaLabel) continue;
  faults.push(`no label: ${one.className}`);
}
for (const one of all("input, select")) {
  const label = one.closest("label")?.cloneNode(true);
  label?.querySelector("input, select").remove();
  if (!label?.textContent.trim()) faults.push(`no label: ${one.id}`);
}
for (const one of all("button, summary, a")) {
  if (one.closest("[hidden]") || one.textContent.trim()) continue;
  faults.push(`no text: ${one.id}`);
}
for (const one of all("fieldset")) {
  if (!one.querySelector("legend")?.textContent) faults.push(`no legend: ${one.id}`);
}
let last = 0;
for (const one of all("h1, h2, h3, h4").filter((one) => one.offsetParent)) {
  const level = Number(one.tagName[1]);
  if (level > last + 1) faults.push(`heading after h${last}: ${one.textContent}`);
  last = level;
}
if (all("h1").length !== 1) faults.push("not one h1");
for (const one of all("table")) {
  if (!one.caption?.textContent) faults.push("no caption");
  if (!one.parentElement.matches('.scroll[tabindex="0"]')) faults.push("no scroller");
}
for (const one of all("table th")) if (!one.scope) faults.push("no scope");
if (document.documentElement.lang !== "en") faults.push("no language");
return faults;
"""

ODD_CONTENTS = {
    "four": {},
    "hostile": {
        "names": (
            "baseline",
            HOSTILE,
            "<b>a</b> &lt;",
            "long_" * 20,
            *(f"sweep_{k}" for k in range(17)),
        ),
        "emotions": ("anger", HOSTILE, "x", "long class name of a folder"),
        "title": HOSTILE,
        "command": HOSTILE * 3,
        "failed": [{"run": HOSTILE, "error": HOSTILE}],
    },
    "alone": {
        "names": ("alone",),
        "baseline": None,
        "seeds": 1,
        "splits": ("val",),
        "emotions": ("no", "yes"),
        "unfinished": ["alone/seed_43"],
    },
    "no baseline": {"names": ("a", "b"), "baseline": None},
}


@pytest.mark.parametrize("kind", ODD_CONTENTS)
def test_page_is_sound_and_fits_a_phone(browser, kind):
    browser.open(make_content(**ODD_CONTENTS[kind]), width=390, height=844)
    assert browser.js(CHECKS) == []
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    browser.size(1440)
    browser.until(
        "document.querySelector('[data-chart=cost-chart] svg').clientWidth > 700"
    )
    assert browser.js("return document.documentElement.scrollWidth") <= 1440
    labels = browser.js(
        "return [...document.querySelectorAll('#cost .annotation-text')]"
        ".map(one => one.textContent)"
    )
    for one in browser.js("return JSON.parse(content.textContent).experiments"):
        assert any(label.startswith(one["id"][:12]) for label in labels)
    assert browser.errors() == []
    assert browser.js("return document.title") != "broken"
    assert browser.js("return document.querySelectorAll('main img').length") == 0


def test_what_has_no_value_is_a_dash(browser):
    content = make_content(seeds=1)
    split = content["splits"]["test"]
    split["scores"]["lr_low"]["f1_fear"] = None
    split["scores"]["lr_low"]["recall_fear"] = None
    split["differences"]["lr_low"] = dict.fromkeys(metrics(EMOTIONS))
    del split["confusion"]["baseline"], split["calibration"]["lr_low"]
    del split["scores"]["lr_high"]
    for one in content["experiments"]:
        one["curves"] = []
        one["minutes"] = one["images_per_s"] = None
    browser.open(content)
    row = browser.js(
        "return [...document.querySelectorAll('#overall tbody tr')].map("
        "row => [...row.cells].map(cell => cell.innerText))"
    )[1]
    assert row[0].strip() == "lr_low"
    assert row[5:8] == ["–", "–", "–"]  # sd, difference, p
    assert browser.texts("#emotions .heat tbody tr:nth-child(2) td")[2] == "–"
    assert "lr_high" in browser.texts("#trouble")[0]
    assert "no curves" in browser.texts("#curves .fact")[0]
    assert "no confusion matrix" in browser.texts("#confusions .body")[0]
    assert "no times" in browser.texts("#cost .fact")[0]
    assert browser.errors() == []


def test_clean_scores_have_columns_where_images_have_copies_in_train(browser):
    content = make_content()
    split = content["splits"]["val"]
    split["leaked"] = 90
    split["clean"] = {"lr_low": {"accuracy": 0.4321, "macro_f1": 0.4012}}
    content["split"] = "val"
    browser.open(content)
    heads = browser.texts("#overall thead th")
    place = heads.index("Accuracy, clean")
    assert heads[place + 1] == "Macro F1, clean"
    cells = browser.js(
        "return [...document.querySelectorAll('#overall tbody tr')].map("
        "row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    told = {row[0]: row[place : place + 2] for row in cells}
    assert told["lr_low"] == ["43.2", "40.1"] and told["lr_high"] == ["–", "–"]
    browser.click("#split input[value=test]")
    assert "Accuracy, clean" not in browser.texts("#overall thead th")
    assert browser.errors() == []


def test_tables_stay_where_the_charts_cannot_be_unpacked(browser):
    path = browser.folder / "old.html"
    page = render(make_content())
    head = without_plotly(page)
    path.write_text(head + 'id="plotly">bm90IGd6aXA=</script></body></html>')
    browser.driver.get(path.as_uri())
    browser.until("document.documentElement.dataset.ready === 'tables'")
    assert len(browser.texts("#overall tbody tr")) == len(NAMES)
    assert (
        "None of" in (told := browser.texts("#differences .fact")[0]) or "of 3" in told
    )
    browser.driver.get_log("browser")


def test_numbers_are_rounded_as_the_tables_round_them(page):
    values = [k / 8 for k in range(-40, 200)] + [k / 100 for k in range(300)]
    basics = (PAGE / "basics.js").read_text("utf-8")
    code = f"{basics}\nreturn arguments[0].map((x) => [fixed(x, 0), fixed(x)])"
    found = page.js(code, values)
    for value, texts in zip(values, found, strict=True):
        told = [float(text.replace("−", "-")) for text in texts]
        assert told == [float(f"{value:.0f}"), float(f"{value:.1f}")]
