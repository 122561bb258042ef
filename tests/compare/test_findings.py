import numpy as np
import pytest
from fake_runs import make_config, make_labels, make_result, write

from fer_jax.compare import load_runs, statistics, summarise
from fer_jax.compare.findings import findings, seeds_note
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

LABELS = make_labels(n=700)
FEAR, DISGUST = EMOTIONS.index("fear"), EMOTIONS.index("disgust")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 1000)
    monkeypatch.setattr(statistics, "MIN_DRAWS", 1000)
    monkeypatch.setattr(statistics, "MAX_DRAWS", 1000)


def predict(name, seed, skill=0.6, better=None, labels=LABELS):
    """Predictions of a skill, on the images of the class `better` of 0.95."""
    rng = np.random.default_rng([seed, *name.encode()])
    chance = np.where(labels == better, 0.95, skill)
    wrong = (labels + rng.integers(1, len(EMOTIONS), len(labels))) % len(EMOTIONS)
    return np.where(rng.random(len(labels)) < chance, labels, wrong)


def run(folder, name, question="does it help?", seeds=(1, 2, 3), asks=None, **options):
    minutes, labels = options.pop("minutes", 1), options.get("labels", LABELS)
    config = make_config() | ({"asks": asks} if asks else {})
    for seed in seeds:
        chosen = predict(name, seed, **options)
        given = {"labels": labels, "chosen": chosen, "config": config}
        result = make_result(name, seed, description=question, **given)
        result["timing"]["train_s"] = 60 * minutes
        write(folder, result)


def found_in(folder):
    summary = summarise(load_runs(folder)[0], "val")
    return {finding.question: finding for finding in findings(summary)}, summary


def test_a_real_gain_is_better_and_noise_is_not_shown(tmp_path):
    run(tmp_path, "baseline")
    run(tmp_path, "gain", "does skill help?", skill=0.85)
    run(tmp_path, "loss", "does less skill hurt?", skill=0.35)
    run(tmp_path, "same", "does nothing help?")
    found, summary = found_in(tmp_path)
    assert found["does skill help?"].verdict == "better"
    assert found["does less skill hurt?"].verdict == "worse"
    nothing = found["does nothing help?"]
    assert nothing.verdict == "n.s."
    assert nothing.answer.startswith("same did not measurably change macro F1 (")
    assert "; minimum detectable effect " in nothing.answer
    overall = found["Which experiments differ from the baseline?"]
    assert overall.answer.startswith(
        "By macro F1, gain is better than baseline; loss is worse than baseline; "
        "1 of 3 do not differ measurably from it (minimum detectable effect "
    )
    assert overall.verdict == "mixed"
    # The figures in words are those of the tests.
    gain = next(each for each in summary.experiments if each.name == "gain")
    row = gain.versus["macro_f1"]
    told = f"{100 * row.value:+.1f}, 95 % interval {100 * row.low:+.1f} to "
    assert f"gain improved macro F1 ({told}" in found["does skill help?"].answer
    assert "loss lowered macro F1 (" in found["does less skill hurt?"].answer


def test_the_emotions_that_are_asked_about_are_answered(tmp_path):
    asks = {"metrics": ["macro_f1"], "emotions": ["fear", "Disgusted"]}
    run(tmp_path, "baseline")
    run(tmp_path, "focal", "Does focal loss help?", better=FEAR, asks=asks)
    finding = found_in(tmp_path)[0]["Does focal loss help?"]
    improved, _, rest = finding.answer.partition("; it did not measurably change ")
    assert "fear F1 (+" in improved and "disgust F1 (" in rest
    assert "happy" not in finding.answer
    assert "fear recall (+" in improved  # it is significant
    assert "disgust recall" not in finding.answer  # it is not
    assert "macro F1 (+" in finding.answer
    assert finding.verdict == "mixed"  # fear is better, disgust n.s.


def test_rewording_a_question_does_not_change_its_answer(tmp_path):
    words = "Is fear, rare disgust, accuracy or balanced accuracy any better?"
    for name, question in {"baseline": "?", "a": "does it help?", "b": words}.items():
        run(tmp_path, name, question, skill=0.9 - 0.3 * (name == "baseline"))
    found, _ = found_in(tmp_path)
    plain, reworded = found["does it help?"], found[words]
    assert plain.verdict == reworded.verdict == "better"
    for finding, name in ((plain, "a"), (reworded, "b")):
        assert finding.answer.startswith(f"{name} improved macro F1 (+")
        assert "accuracy" not in finding.answer and "fear" not in finding.answer


def test_a_question_of_rare_ones_tells_recall_and_precision(tmp_path):
    kept = (LABELS != DISGUST) | (np.arange(len(LABELS)) < 200)
    rare = {"labels": LABELS[kept], "asks": {"emotions": ["rare"]}}
    run(tmp_path, "baseline", labels=LABELS[kept])
    run(tmp_path, "even", "Do weights help?", **rare)
    answer = found_in(tmp_path)[0]["Do weights help?"].answer
    for metric in ("F1", "recall", "precision"):
        assert f"disgust {metric} " in answer
    assert "fear" not in answer
    run(tmp_path / "even", "baseline")
    run(tmp_path / "even", "b", "Do weights help?", asks=rare["asks"])
    answer = found_in(tmp_path / "even")[0]["Do weights help?"].answer
    assert answer.startswith(
        "No emotion is rare here. b did not measurably change macro F1 ("
    )


def test_the_metrics_that_are_asked_about_are_answered(tmp_path):
    run(tmp_path, "baseline")
    run(tmp_path, "batch", "accuracy?", asks={"metrics": ["accuracy"]})
    both = {"metrics": ["accuracy", "balanced_accuracy"], "emotions": ["boredom"]}
    run(tmp_path, "both", "both?", asks=both)
    found, _ = found_in(tmp_path)
    answer = found["accuracy?"].answer
    assert "batch did not measurably change accuracy (" in answer
    assert "macro F1" not in answer
    answer = found["both?"].answer
    assert answer.startswith("There is no class boredom here. both ")
    assert " and balanced accuracy (" in answer and "macro F1" not in answer


def test_an_unknown_metric_in_a_result_is_named(tmp_path):
    run(tmp_path, "baseline", asks={"metrics": ["f2"]})
    with pytest.raises(UserError, match="result.json lacks config.asks.metrics"):
        load_runs(tmp_path)


def test_experiments_of_one_question_are_one_answer(tmp_path):
    run(tmp_path, "baseline")
    run(tmp_path, "lr_low", "which rate?", skill=0.3)
    run(tmp_path, "lr_high", "which rate?", skill=0.9)
    finding = found_in(tmp_path)[0]["which rate?"]
    assert finding.experiments == ["lr_high", "lr_low"]
    assert finding.answer.count("macro F1") == 2
    assert finding.verdict == "mixed"


def test_the_time_is_told_where_it_differs(tmp_path):
    run(tmp_path, "baseline")
    run(tmp_path, "long", "do longer runs help?", minutes=3)
    run(tmp_path, "alike", "and this?", minutes=1.1)
    found, _ = found_in(tmp_path)
    assert found["do longer runs help?"].answer.endswith(
        " Training took 3.0 times as long."
    )
    assert "as long" not in found["and this?"].answer


def test_one_seed_speaks_of_networks_only(tmp_path):
    run(tmp_path, "baseline", seeds=(1,))
    run(tmp_path, "gain", skill=0.9, seeds=(1,))
    _, summary = found_in(tmp_path)
    assert "these networks, not the settings" in seeds_note(summary)
    row = summary.experiments[0].versus["accuracy"]
    assert (row.test, row.significant) == ("McNemar", True)
    run(tmp_path, "baseline", seeds=(2, 3))
    _, summary = found_in(tmp_path)
    assert "stands in for theirs" in seeds_note(summary)
    tests = {row.test for row in summary.experiments[0].versus.values()}
    assert tests == {"permutation"}


def test_without_a_baseline_nothing_is_said(tmp_path):
    run(tmp_path, "a")
    run(tmp_path, "b", skill=0.9)
    assert found_in(tmp_path)[0] == {}


def test_configs_play_no_part(tmp_path):
    # The words rest on predictions alone: equal ones are never a finding.
    labels = make_labels(n=100)
    for name, lr in {"baseline": 1e-3, "lr": 1e-1}.items():
        for seed in (1, 2):
            config = make_config(training__lr=lr)
            options = {"labels": labels, "chosen": (labels + 1) % 7, "config": config}
            write(tmp_path, make_result(name, seed, **options))
    found, _ = found_in(tmp_path)
    (finding,) = found.values()
    assert finding.verdict == "n.s."
    assert "their predictions do not differ" in finding.answer


def test_against_another_baseline_the_description_is_no_question(tmp_path):
    for name in ("baseline", "a", "b"):
        run(tmp_path, name, f"is {name} better than baseline?", seeds=(1, 2))
    summary = summarise(load_runs(tmp_path)[0], "val", baseline="a")
    questions = {finding.question for finding in findings(summary)}
    assert {"b against a?", "baseline against a?"} < questions
    assert not any("better than" in question for question in questions)


def test_odd_descriptions_are_one_printable_line(tmp_path):
    run(tmp_path, "baseline", seeds=(1,))
    run(tmp_path, "a", "does\n\x1b[31mit  help?", seeds=(1,))
    run(tmp_path, "b", "", seeds=(1,))
    run(tmp_path, "c", "long " * 1000, seeds=(1,))
    questions = list(found_in(tmp_path)[0])
    assert "does [31mit help?" in questions
    assert "b against baseline?" in questions
    assert max(map(len, questions)) <= 200


def test_an_emotion_without_images_is_undefined(tmp_path):
    kept = LABELS[LABELS != DISGUST]
    asks = {"emotions": ["disgust", "fear"]}
    run(tmp_path, "baseline", labels=kept, seeds=(1,))
    run(tmp_path, "a", "?", labels=kept, seeds=(1,), asks=asks)
    answer = found_in(tmp_path)[0]["?"].answer
    assert answer.endswith(" Disgust F1 is undefined without images.")
    assert answer.startswith("a did not measurably change fear F1 (")
