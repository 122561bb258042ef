import json

import numpy as np
import pytest
from fake_runs import OTHER, make_result, write

from fer_jax.compare import main
from fer_jax.compare.against import pack, unpack
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("few_draws")
LABELS = np.arange(700) % 7


def guess(share, seed=0):
    """Predictions of which so many are right."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(LABELS)) < share, LABELS, (LABELS + 1) % 7)


def train(folder, name, chosen, seeds=(1,), **options):
    for seed in seeds:
        made = make_result(name, seed, labels=LABELS, chosen=chosen, **options)
        write(folder, made)


@pytest.fixture
def last_week(tmp_path):
    """An export of two experiments."""
    train(tmp_path / "old", "baseline", guess(0.7))
    train(tmp_path / "old", "lr_low", guess(0.5, 1), seeds=(1, 2))
    path = tmp_path / "last_week.json"
    assert main([str(tmp_path / "old"), "--export", str(path)]) == 0
    return path


def rows_of(text):
    block = text.partition("val: since ")[2].splitlines()[3:]
    return [line.split() for line in block if "F1" in line and "all macro" not in line]


def test_what_got_worse_is_named_and_is_the_exit_status(tmp_path, last_week, capsys):
    train(tmp_path / "new", "baseline", guess(0.4, 2))
    train(tmp_path / "new", "lr_low", guess(0.9, 3), seeds=(1, 2))
    train(tmp_path / "new", "unheard_of", guess(0.1, 3))
    capsys.readouterr()
    assert main([str(tmp_path / "new"), "--against", str(last_week)]) == 1
    rows = rows_of(capsys.readouterr().out)
    by_name = {(row[0], row[1]): row for row in rows}
    assert by_name["baseline", "macro"][-1] == "worse"
    assert by_name["lr_low", "macro"][-1] == "better"
    assert {row[0] for row in rows} == {"baseline", "lr_low"}
    before, now = (float(cell) for cell in by_name["baseline", "macro"][3:5])
    assert before == pytest.approx(70, abs=4) and now == pytest.approx(40, abs=4)
    assert {row[1] for row in rows} > {"fear", "sad"}


def test_the_same_runs_are_no_worse(tmp_path, last_week, capsys):
    capsys.readouterr()
    assert main([str(tmp_path / "old"), "--against", str(last_week)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "unchanged: baseline, lr_low; all macro F1" in shown


def test_experiments_that_did_not_change_count_in_no_correction(tmp_path, capsys):
    for k in range(8):
        for place in ("old", "new"):
            train(tmp_path / place, f"same_{k}", guess(0.6, k))
    train(tmp_path / "old", "z", guess(0.70, 20))
    train(tmp_path / "new", "z", guess(0.62, 21))
    path = tmp_path / "old.json"
    assert main([str(tmp_path / "old"), "--export", str(path)]) == 0
    shown = []
    for more in ((), ("--filter", "z")):
        capsys.readouterr()
        main([str(tmp_path / "new"), "--against", str(path), *more])
        text = capsys.readouterr().out
        shown.append(rows_of(text))
    assert shown[0] == shown[1] and shown[0][0][0] == "z"


def test_what_is_gone_or_new_is_named(tmp_path, last_week, capsys):
    train(tmp_path / "new", "baseline", guess(0.7))
    train(tmp_path / "new", "fresh", guess(0.7))
    capsys.readouterr()
    assert main([str(tmp_path / "new"), "--against", str(last_week)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"only now: fresh; only in {last_week}: lr_low; all" in shown.replace(
        "last_ week", "last_week"
    )


def test_one_emotion_that_got_worse_is_enough(tmp_path, last_week, capsys):
    fear = EMOTIONS.index("fear")
    lost = np.where(fear == LABELS, (LABELS + 3) % 7, guess(0.7))
    gained = np.where((guess(0.7) != LABELS) & (LABELS > 4), LABELS, lost)
    train(tmp_path / "new", "baseline", gained)
    capsys.readouterr()
    assert main([str(tmp_path / "new"), "--against", str(last_week)]) == 1
    rows = {tuple(row[:2]): row[-1] for row in rows_of(capsys.readouterr().out)}
    assert rows["baseline", "fear"] == "worse"


def test_what_cannot_be_compared_is_refused(tmp_path, last_week):
    old, path = str(tmp_path / "old"), tmp_path / "x.json"

    def refused(told, folder=old, content=None):
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError, match=told):
            main([folder, "--against", str(path)])

    refused("x.json: No such file")
    refused("is no FILE.json of --export", content="{")
    refused("is no FILE.json of --export", content="[1]")
    refused("has no data: it is no export of this version", content="{}")
    content = json.loads(last_week.read_text())
    content["splits"]["val"]["predicted"]["baseline"] = ["!"]
    refused("is no FILE.json of --export", content=json.dumps(content))
    content["splits"]["val"]["predicted"]["baseline"] = [pack(LABELS[:9])]
    refused("is damaged; write it again", content=json.dumps(content))
    content["splits"]["val"]["predicted"]["baseline"] = [pack(LABELS + 7)]
    refused("is damaged; write it again", content=json.dumps(content))
    content["splits"]["val"]["predicted"]["baseline"] = []
    refused("is damaged; write it again", content=json.dumps(content))
    with pytest.raises(UserError, match="is named twice"):
        main([old, "--against", str(path), "--export", str(path)])
    write(tmp_path / "b", make_result("baseline", 1, data=OTHER))
    refused("a comparison needs the same", str(tmp_path / "b"), last_week.read_text())
    train(tmp_path / "c", "other", guess(0.5))
    refused("no experiment is in both", str(tmp_path / "c"))


def test_classes_are_packed_without_loss():
    classes = np.random.default_rng(0).integers(0, 8, 3589).astype(np.uint8)
    assert (unpack(pack(classes)) == classes).all()
    assert len(pack(classes)) < 2500
