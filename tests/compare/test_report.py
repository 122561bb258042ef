"""The report's page: what Python writes, and what a browser shows of it."""

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from fake_runs import make_many, make_result, write
from plotly.offline import get_plotlyjs

from fer_jax.compare import Comparison, load, statistics
from fer_jax.compare.report import render, write_report
from fer_jax.errors import UserError

HOSTILE = "</script><img src=x onerror=document.title='broken'>&<b>'\"\u2028"


@contextlib.contextmanager
def fewer_draws():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DRAWS", "MIN_DRAWS", "MAX_DRAWS"):
            patch.setattr(statistics, name, 300)
        yield


def analysed(comparison, splits):
    """The comparison on each split, computed with few draws."""
    found = {split: comparison.replace(split=split) for split in splits}
    with fewer_draws():
        for each in found.values():
            assert each.summary
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    make_many(folder, seeds=(1, 2))
    (folder / "lr_low" / "seed_3").mkdir()
    return analysed(load(folder), ("val", "test"))


def page_of(splits, split="val"):
    return render(splits, split=split, command=f"bin/compare --split {split}")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Names of experiments and classes that would break a careless page."""
    folder, runs = tmp_path_factory.mktemp("hostile"), []
    classes = ("anger", HOSTILE, "long class name of a folder")
    for k in range(4):
        write(folder, make_result(f"e{k}", 1, classes=classes))
    names = ("baseline", HOSTILE, "<b>a</b> &lt;{{ 7 * 7 }}", "long_" * 20)
    made = load(folder)
    for run, name in zip(made.finished, names, strict=True):
        runs.append(dataclasses.replace(run, name=name, description=HOSTILE))
    options = {"split": "val", "sort": "name", "baseline": "baseline"}
    return analysed(Comparison(runs, [folder / HOSTILE[:9] / "x"], **options), ["val"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One run of one split, without a baseline or curves."""
    folder = tmp_path_factory.mktemp("alone")
    made = make_result("alone", 1, classes=("no", "yes"), test=False)
    write(folder, made).joinpath("metrics.jsonl").unlink()
    return analysed(load(folder), ["val"])


# What Python writes.


def unpacked(page, name):
    """The compressed text of a script element."""
    packed = page.partition(f'id="{name}">')[2].partition("</script>")[0]
    return gzip.decompress(base64.b64decode(packed)).decode()


def without_plotly(page):
    head, mark, _ = page.partition('id="plotly">')
    assert mark
    return head


def test_hostile_names_stay_text(hostile):
    page = without_plotly(page_of(hostile))
    assert "<img" not in page and "49" not in page.partition("<main")[0]
    assert page.count("</script>") == 3  # of the data, the script and the figures
    names = json.loads(unpacked(page, "figures"))["val"]["confusion"]
    assert HOSTILE in names and "long_" * 20 in names


def test_a_class_that_no_encoding_can_write_is_shown(tmp_path):
    write(tmp_path, make_result("a", 1, classes=("no", "caf\udce9")))
    page_of(analysed(load(tmp_path), ["val"])).encode()


def test_answers_and_tables_are_there_without_scripts(many):
    page = without_plotly(page_of(many)).partition("<main")[2]
    first = many["val"].answers[0]
    assert first.answer in page and first.question in page
    score = many["val"].experiments.iloc[0]
    told = f"{100 * score['macro_f1']:.1f} ["
    assert told in page


def test_page_has_no_address_and_allows_no_loading(many):
    page = without_plotly(page_of(many))
    assert "://" not in page
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy and "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].split(";")[0]


def test_plotly_goes_in_whole_with_its_licence(alone):
    page = page_of(alone)
    text = unpacked(page, "plotly")
    assert "Licensed under the MIT license" in text[:200]
    assert text == get_plotlyjs()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    # HTML may write the signs of base64 as references.
    head = page.partition("</head>")[0].replace("&#43;", "+").replace("&#61;", "=")
    assert digest in head


def test_report_replaces_whole_or_not_at_all(tmp_path, monkeypatch, alone):
    path = tmp_path / "report.html"
    path.write_text("old")
    options = {"split": "val", "command": "x"}

    def full(self, content):
        self.open("wb").write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            write_report(path, alone, **options)
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
    write_report(path, alone, **options)
    assert path.read_text("utf-8").startswith("<!doctype html>")
    with pytest.raises(UserError, match="cannot be written: No such file"):
        write_report(tmp_path / "none" / "report.html", alone, **options)


# What a browser shows.


class Browser:
    """Chromium, with a report open."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def open(self, splits, split="val", *, width=1280, height=900, ready="charts"):
        path = self.folder / "report.html"
        path.write_text(page_of(splits, split), "utf-8")
        return self.visit(path, width, height, ready)

    def visit(self, path, width=1280, height=900, ready="charts"):
        self.size(width, height)
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        self.until("document.documentElement.dataset.ready !== undefined")
        assert self.js("return document.documentElement.dataset.ready") == ready

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
        """The texts of what is visible."""
        code = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(e => e.offsetParent).map(e => e.innerText.trim())"
        )
        return self.js(code, selector)

    def choose(self, figure, value):
        self.js(
            "const one = document.querySelector(arguments[0]);"
            "one.value = arguments[1];"
            "one.dispatchEvent(new Event('change'))",
            f"[data-figure={figure}] select",
            value,
        )

    def draw_all(self):
        for event in ("beforeprint", "afterprint"):
            self.js("dispatchEvent(new Event(arguments[0]))", event)

    def traces(self, figure):
        """The names of the experiments in a figure."""
        plot = f"document.querySelector('[data-figure={figure}] .plot')"
        return self.js(f"return {plot}.data.flatMap(trace => trace.meta)")

    def errors(self):
        levels = ("SEVERE", "WARNING")
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] in levels]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium() as driver:
        yield Browser(driver, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(browser, many):
    """One page, for the tests that leave it as it was."""
    browser.open(many)
    browser.draw_all()
    return browser


def test_page_opens_alone_and_without_a_complaint(page):
    assert page.errors() == []
    sent = [
        message["params"]["request"]["url"].split(":")[0]
        for entry in page.driver.get_log("performance")
        for message in [json.loads(entry["message"])["message"]]
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert sent.count("file") == 1
    assert set(sent) <= {"file", "blob", "data"}
    drawn = "return document.querySelectorAll('figure .main-svg:first-child').length"
    assert page.js(drawn) == 9  # eight figures, of which one is there twice
    assert (page.folder / "report.html").stat().st_size < 2_500_000


def test_split_switch_changes_tables_answers_and_figures(page, many):
    def shown():
        cell = page.texts("#overall tbody tr[data-experiment=lr_low] td")[2]
        mark = page.js(
            "return document.querySelector('[data-figure=scores] .plot').data"
            ".find(trace => trace.meta === 'lr_low').x[0]"
        )
        return float(cell.split()[0]), mark, page.texts("#answers dd")[0]

    for split in ("test", "val"):
        page.click(f"#split input[value={split}]")
        score, mark, answer = shown()
        row = many[split].experiments.set_index("experiment").loc["lr_low"]
        assert score == pytest.approx(100 * row["macro_f1"], abs=0.051)
        assert mark == pytest.approx(100 * row["macro_f1"], abs=1e-3)
        assert many[split].answers[0].answer in answer
        warned = " ".join(page.texts("header .warning"))
        assert ("selected the checkpoints" in " ".join(warned.split())) == (
            split == "val"
        )


def test_figures_keep_their_height_and_print_on_white_in_the_width_of_paper(page):
    plot = "document.querySelector('[data-figure=scores] .plot')"

    def sizes():
        code = f"const p = {plot}; const s = p.querySelector('svg');"
        return page.js(
            code + "return [p.clientHeight, s.clientHeight, s.clientWidth,"
            "p._fullLayout.paper_bgcolor]"
        )

    page.size(1000)
    page.until(f"{plot}.querySelector('svg').clientWidth < 950")
    box, drawn, _, _ = sizes()
    assert box == drawn > 400
    page.js("document.documentElement.dataset.theme = 'dark'")
    page.js("dispatchEvent(new Event('beforeprint'))")
    _, _, width, ground = sizes()
    assert (width, ground) == (660, "#ffffff")
    page.js("dispatchEvent(new Event('afterprint'))")
    assert sizes()[3] != "#ffffff"
    page.js("delete document.documentElement.dataset.theme")
    page.size(1280)
    page.draw_all()


def test_text_sorts_both_ways_and_every_row_says_whose_it_is(page):
    table = "#settings [data-split=val] .scroll:last-child"
    names = page.texts(f"{table} tbody th")
    assert all(names) and len(names) > len(set(names))
    for sort, reverse in (("ascending", False), ("descending", True)):
        page.click(f"{table} thead th button")
        assert page.texts(f"{table} tbody th") == sorted(names, reverse=reverse)
        head = f"document.querySelector('{table} thead th')"
        assert page.js(f"return {head}.ariaSort") == sort


def test_table_sorts_by_click_and_by_keys(page, many):
    from selenium.webdriver.common.keys import Keys

    order = many["val"].experiments.sort_values("accuracy", ascending=False)
    falling = [*order["experiment"]]
    heading = "#overall [data-split=val] thead th:nth-child(3)"

    def rows():
        table = "#overall [data-split=val] .scroll:first-child"
        names = page.texts(f"{table} tbody th")
        return names, page.js(f"return document.querySelector('{heading}').ariaSort")

    before, sort = rows()
    assert sort == "none"
    page.click(f"{heading} button")
    assert rows() == (falling, "descending")
    button = page.driver.find_element("css selector", f"{heading} button")
    button.send_keys(Keys.ENTER)
    assert rows() == (falling[::-1], "ascending")
    page.click("#overall [data-split=val] thead th:nth-child(4) button")
    assert rows() == (before, "none")  # the order of macro F1


def test_choice_removes_rows_and_marks(page):
    assert "lr_high" in page.traces("emotions")
    page.click("#choice-list input[value=lr_high]")
    for figure in ("scores", "differences", "emotions", "curves", "cost"):
        assert {"lr_low"} == set(page.traces(figure)) & {"lr_low", "lr_high"}
    assert "lr_high" not in page.texts("tbody th")
    assert page.texts("#choice-count") == ["11 of 12"]
    page.click("#choose-none")
    assert page.texts("#overall tbody th") == []
    page.click("#choose-all")
    assert "lr_high" in page.texts("#overall tbody th")
    assert "lr_high" in page.traces("emotions")
    assert page.errors() == []


def test_figure_follows_its_select_and_says_what_it_shows(page, many):
    own = many["val"].differences
    own = own[(own["metric"] == "recall") & (own["emotion"] == "fear")]
    page.choose("differences", "recall_fear")
    plot = "document.querySelector('[data-figure=differences] .plot')"
    marks = page.js(f"return {plot}.data.filter(t => t.type === 'scatter')")
    shown = {mark["meta"]: mark["x"][0] for mark in marks}
    expected = dict(zip(own["experiment"], 100 * own["value"], strict=True))
    assert shown == pytest.approx(expected, abs=1e-3)
    label = page.js(f"return {plot}.ariaLabel")
    assert "differences in fear recall" in label
    assert page.texts("#differences .fact")[0] in label
    page.choose("differences", "macro_f1")


def test_dark_follows_the_system_and_the_button(page):
    def colours():
        return page.js(
            "const plot = document.querySelector('[data-figure=scores] .plot');"
            "return [getComputedStyle(document.body).backgroundColor,"
            "plot._fullLayout.paper_bgcolor, plot._fullLayout.font.color]"
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
const ids = all("[id]").map((one) => one.id).filter((id) => !id.match(/^(top|clip|g)/));
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
for (const one of all("button, summary, nav a")) {
  if (one.closest("[hidden], .plot") || one.textContent.trim()) continue;
  faults.push(`no text: ${one.id}`);
}
let last = 0;
for (const one of all("h1, h2, h3, h4").filter((one) => one.offsetParent)) {
  const level = Number(one.tagName[1]);
  if (level > last + 1) faults.push(`heading after h${last}: ${one.textContent}`);
  last = level;
}
if (all("h1").length !== 1) faults.push("not one h1");
for (const one of all("table")) if (!one.caption) faults.push("no caption");
for (const one of all("table th")) if (!one.scope) faults.push("no scope");
for (const one of all("nav a")) {
  if (!document.querySelector(one.getAttribute("href"))) faults.push(one.href);
}
return faults;
"""


@pytest.mark.parametrize("kind", ["many", "hostile", "alone"])
def test_page_is_sound_and_fits_a_phone(browser, request, kind):
    browser.open(request.getfixturevalue(kind), width=390, height=844)
    browser.draw_all()
    assert browser.js(CHECKS) == []
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    browser.size(1440)
    browser.until("document.querySelector('[data-figure=cost] svg').clientWidth > 700")
    assert browser.js("return document.documentElement.scrollWidth") <= 1440
    assert browser.errors() == []
    assert browser.js("return document.title") != "broken"
    assert browser.js("return document.querySelectorAll('main img').length") == 0


def test_tables_stay_where_the_figures_cannot_be_unpacked(browser, alone):
    path = browser.folder / "old.html"
    head = without_plotly(page_of(alone))
    path.write_text(head + 'id="plotly">bm90IGd6aXA=</script></body></html>')
    browser.visit(path, ready="tables")
    assert browser.texts("#overall tbody th") == ["alone"]
    assert np.all([text == "" for text in browser.texts(".plot")])
    browser.driver.get_log("browser")
