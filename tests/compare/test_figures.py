import itertools

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from fake_runs import make_many, make_result, write

from fer_jax.compare import figure_files, figure_style, figures, load, main
from fer_jax.compare.figure_style import COLOURS, label, looks

pytestmark = pytest.mark.usefixtures("few_draws")
HOSTILE = "<b>a</b> &lt; " + "long_" * 20


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    make_many(folder, seeds=(1, 2))
    return load(folder)


def traces(drawing, kind):
    return {each["meta"]: each for each in drawing["data"] if each["type"] == kind}


def test_scores_and_differences_are_those_of_the_frames(found):
    drawn = traces(figures.scores(found.experiments, "accuracy"), "scatter")
    for row in found.experiments.itertuples():
        mark = drawn[row.experiment]
        assert mark["x"] == [100 * row.accuracy] and mark["y"] == [row.experiment]
        error = mark["error_x"]
        assert mark["x"][0] + error["array"][0] == pytest.approx(
            100 * row.accuracy_high
        )
        low = mark["x"][0] - error["arrayminus"][0]
        assert low == pytest.approx(100 * row.accuracy_low)
    drawing = figures.differences(found.differences, "recall", "fear", split="val")
    title = drawing["layout"]["title"]["text"]
    assert title == "val: fear recall less baseline's, points"
    own = found.differences
    own = own[(own["metric"] == "recall") & (own["emotion"] == "fear")]
    marks, bars = traces(drawing, "scatter"), traces(drawing, "bar")
    for row in own.itertuples():
        mark = marks[row.experiment]
        assert mark["x"] == [100 * row.value]
        filled = mark["marker"]["symbol"] == "circle"
        assert filled == row.significant
        assert bars[row.experiment]["base"][0] == pytest.approx(-100 * row.detectable)
    assert f"{own['significant'].sum() or 'None'} of 11" in drawing["layout"]["meta"]


def test_colour_says_the_direction_of_what_is_significant():
    row = {"baseline": "b", "metric": "macro_f1", "emotion": None, "detectable": 0.1}
    cases = [("up", 0.2, True), ("down", -0.2, True), ("level", 0.01, False)]
    table = pd.DataFrame(
        row
        | {"experiment": name, "value": value, "significant": sure}
        | {"low": value - 0.01, "high": value + 0.01, "p": 0.1, "p_holm": 0.1}
        for name, value, sure in cases
    )
    marks = traces(figures.differences(table), "scatter")
    shown = {
        name: (m["marker"]["color"], m["marker"]["symbol"]) for name, m in marks.items()
    }
    assert shown == {
        "up": (figure_style.BETTER, "circle"),
        "down": (figure_style.WORSE, "circle"),
        "level": (figure_style.NEUTRAL, "circle-open"),
    }


def test_heat_maps_hold_the_values_in_the_order_of_the_frames(found):
    (heat,) = figures.emotions(found.emotions, "precision")["data"]
    assert heat["y"] == heat["meta"] == [*found.experiments["experiment"]]
    own = found.emotions[found.emotions["metric"] == "precision"]
    for row in own.itertuples():
        cell = heat["z"][heat["y"].index(row.experiment)][heat["x"].index(row.emotion)]
        assert cell == pytest.approx(100 * row.value)
    (heat,) = figures.confusion(found.confusion, "lr_low")["data"]
    assert np.allclose(np.sum(heat["z"], axis=1), 100)
    assert np.sum(heat["customdata"]) == 600


def test_curves_are_means_as_far_as_all_seeds_ran(found):
    drawn = [t for t in figures.curves(found.history)["data"] if t["meta"] == "lr_low"]
    strong = [t for t in drawn if t["showlegend"]]
    assert len(drawn) == 3 and len(strong) == 1
    assert strong[0]["x"] == [*range(1, 22)]  # of 21 and 22 epochs
    assert [len(t["x"]) for t in drawn if not t["showlegend"]] == [21, 22]
    assert strong[0]["y"][0] == pytest.approx(5.0)


def test_every_figure_is_what_plotly_accepts_and_has_its_fact(found):
    draw = found.figures
    made = [
        draw.scores(), draw.differences(), draw.emotions(), draw.confusion("lr_low"),
        draw.curves("val_loss"), draw.precision_recall("fear"), draw.reliability(),
        draw.cost("accuracy"), draw.scores(dark=True),
    ]  # fmt: skip
    for figure in made:
        assert isinstance(figure, go.Figure)  # which checks every property
        assert figure.layout.meta.endswith(".") and figure.layout.title.text
    paper = [each.layout.template.layout.paper_bgcolor for each in made]
    assert paper[0] == "#ffffff" and paper[-1] != paper[0]


def test_what_cannot_be_drawn_is_said(tmp_path):
    write(tmp_path, make_result("a", 1, without=("disgust",)))
    write(tmp_path, make_result("baseline", 1, without=("disgust",)))
    found = load(tmp_path)
    fact = figures.precision_recall(found.emotions, "disgust")["layout"]["meta"]
    assert fact == "No experiment finds disgust."
    drawing = figures.differences(found.differences, "f1", "disgust")
    assert drawing["layout"]["meta"] == "There is no difference to show."
    fact = figures.emotions(found.emotions)["layout"]["meta"]
    assert "disgust" not in fact and "angry" in fact


def luminance(colour):
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colours_stand_out_from_both_grounds():
    """WCAG 2.2, 1.4.11: 3 : 1, by the formula of its definition of contrast."""
    for dark in (False, True):
        layout = figure_style.template(dark=dark)["layout"]
        ground = luminance(layout["paper_bgcolor"])
        for colour in {*COLOURS, figure_style.BETTER, figure_style.WORSE}:
            bright, dim = sorted((ground, luminance(colour)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 3, colour


def test_twenty_experiments_look_different():
    made = looks(f"e{k}" for k in range(20))
    assert len(set(made.values())) == 20
    first = [*made.values()][:4]
    for one, other in itertools.combinations(first, 2):
        assert one.colour != other.colour and one.symbol != other.symbol


def test_names_are_text_and_broken_into_lines():
    assert label("balance_weighted_sampler") == "balance_<br>weighted_sampler"
    assert label("lr_low") == "lr_low"
    shown = label(HOSTILE)
    assert "<b>" not in shown and shown.count("<br>") == 2
    assert figure_style.title(HOSTILE)["text"].startswith("&lt;b&gt;a")


def test_figures_are_written_as_html_and_the_lack_of_a_browser_is_said(
    tmp_path, monkeypatch, capsys
):
    import plotly.io

    write(tmp_path / "runs", make_result("a", 1))

    def without_browser(*args, **options):
        raise RuntimeError("no Chrome")

    monkeypatch.setattr(plotly.io, "write_images", without_browser)
    target = tmp_path / "figures"
    assert main([str(tmp_path / "runs"), "--figures", str(target)]) == 0
    assert "without SVG, PDF and PNG, which need Chrome" in capsys.readouterr().out
    pages = sorted(path.name for path in target.glob("*.html"))
    assert "confusion_a.html" in pages and "scores.html" in pages
    text = (target / "scores.html").read_text()
    assert 'src="plotly.min.js"' in text and len(text) < 100_000
    assert (target / "plotly.min.js").exists()


@pytest.mark.slow
def test_a_browser_writes_pictures(tmp_path):
    from chromium import lacking

    if reason := lacking():
        pytest.skip(reason)
    write(tmp_path / "runs", make_result("a", 1))
    found = load(tmp_path / "runs")
    count, lacks = figure_files.write_figures(tmp_path / "out", found)
    assert lacks == ""
    starts = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    for suffix, start in starts.items():
        files = [*(tmp_path / "out").glob(f"*{suffix}")]
        assert len(files) == count
        assert all(path.read_bytes().startswith(start) for path in files)
