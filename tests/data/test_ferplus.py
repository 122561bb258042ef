"""FER+ votes: what they make of a row, by hand, and that the rows are the csv's own."""

import numpy as np
import pytest
from conftest import COUNTS, ROOT, tiny_config, write_tiny_csv
from votes import HEADER, line, tiny_lines, write_votes

from fer_jax import data
from fer_jax.data import ferplus
from fer_jax.data.duplicates.audit import audit
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

REAL = ROOT.parent / "shared/fer2013"


def votes_of(tmp_path, *lines):
    return ferplus.read(write_votes(tmp_path / ferplus.NAME, lines))


# --- what the votes make of a row

WINS = [  # votes, and what wins: published, or with the most votes alone
    ({"happiness": 10}, "happy", "happy"),
    ({"neutral": 6, "sadness": 4}, "neutral", "neutral"),
    # Half is not more than half.
    ({"neutral": 5, "sadness": 5}, "no agreement", "no agreement"),
    ({"neutral": 4, "sadness": 3, "anger": 3}, "no agreement", "neutral"),
    # Without the single votes 4 of 7 are more than half.
    (
        {"neutral": 4, "sadness": 3, "anger": 1, "fear": 1, "disgust": 1},
        "neutral",
        "neutral",
    ),
    ({"unknown": 8, "happiness": 2}, "unknown", "unknown"),
    ({"NF": 9, "happiness": 1}, "no face", "no face"),
    ({"contempt": 7, "neutral": 3}, "contempt", "contempt"),
]


@pytest.mark.parametrize("vote_filter, expected", [("published", 1), ("none", 2)])
def test_the_majority_is_as_published_or_the_most_voted(
    tmp_path, vote_filter, expected
):
    votes = votes_of(tmp_path, *(line(**row[0]) for row in WINS))
    for contempt in (False, True):
        found, reason = ferplus.targets(
            votes, soft=False, vote_filter=vote_filter, contempt=contempt
        )
        assert found.shape == (len(WINS), 7 + contempt) and found.dtype == np.float32
        names = (*EMOTIONS, "contempt")
        told = [
            ferplus.REASONS[why] if why >= 0 else names[row.argmax()]
            for row, why in zip(found, reason, strict=True)
        ]
        assert told == [row[expected] for row in WINS]
        np.testing.assert_array_equal(
            found.sum(axis=1), (reason < 0).astype(np.float32)
        )
        assert set(np.unique(found)) <= {0.0, 1.0}
        # With seven classes contempt is a reason, with eight it is a class.
        assert (reason[-1] == ferplus.REASONS.index("contempt")) != contempt


SHARES = [  # votes, and the shares: published, without single votes, of all votes
    ({"happiness": 10}, {"happy": 1}, {"happy": 1}, {"happy": 1}),
    (
        {"happiness": 8, "surprise": 2},  # three quarters are reached with 8
        {"happy": 1},
        {"happy": 0.8, "surprise": 0.2},
        {"happy": 0.8, "surprise": 0.2},
    ),
    (
        {"sadness": 5, "neutral": 4, "fear": 1},  # 5 of 9 are not three quarters
        {"sad": 5 / 9, "neutral": 4 / 9},
        {"sad": 5 / 9, "neutral": 4 / 9},
        {"sad": 0.5, "neutral": 0.4, "fear": 0.1},
    ),
    (  # the most voted three, together 8 of 10
        {"sadness": 4, "neutral": 2, "fear": 2, "anger": 2},
        "no agreement",  # three are level in second place: four emotions
        {"sad": 0.4, "neutral": 0.2, "fear": 0.2, "angry": 0.2},
        {"sad": 0.4, "neutral": 0.2, "fear": 0.2, "angry": 0.2},
    ),
    (  # "unknown" ends the list before three quarters: 5 of 10 are not more than half
        {"neutral": 5, "unknown": 3, "sadness": 2},
        "no agreement",
        {"neutral": 5 / 7, "sad": 2 / 7},
        {"neutral": 5 / 7, "sad": 2 / 7},
    ),
    ({"unknown": 6, "neutral": 4}, "unknown", "unknown", "unknown"),
    (
        {"neutral": 6, "contempt": 4},  # its votes for contempt do not count here
        {"neutral": 1},
        {"neutral": 1},
        {"neutral": 1},
    ),
]


@pytest.mark.parametrize(
    "vote_filter, expected", [("published", 1), ("outliers", 2), ("none", 3)]
)
def test_soft_labels_are_shares_of_the_votes(tmp_path, vote_filter, expected):
    votes = votes_of(tmp_path, *(line(**row[0]) for row in SHARES))
    found, reason = ferplus.targets(
        votes, soft=True, vote_filter=vote_filter, contempt=False
    )
    for row, why, told in zip(found, reason, SHARES, strict=True):
        if isinstance(told[expected], str):
            assert ferplus.REASONS[why] == told[expected] and not row.any()
        else:
            shares = [told[expected].get(name, 0) for name in EMOTIONS]
            np.testing.assert_allclose(row, shares, atol=1e-6)
            assert why == -1


def test_contempt_is_the_eighth_class_where_it_is_asked_for(tmp_path):
    votes = votes_of(tmp_path, line(neutral=6, contempt=4))
    found, _ = ferplus.targets(votes, soft=True, vote_filter="none", contempt=True)
    np.testing.assert_allclose(found[0, [6, 7]], [0.6, 0.4], atol=1e-6)


def test_a_row_without_an_image_has_no_face(tmp_path):
    votes = votes_of(tmp_path, line(name="", happiness=10), line(happiness=10))
    for soft in (False, True):
        _, reason = ferplus.targets(
            votes, soft=soft, vote_filter="published", contempt=False
        )
        assert reason.tolist() == [ferplus.REASONS.index("no face"), -1]


# --- that the rows are the csv's own


@pytest.fixture
def rows(tmp_path):
    """A csv's splits, and the lines of its votes."""
    csv = write_tiny_csv(tmp_path / "fer2013.csv")
    return data.load(str(csv), image_size=16).splits, tiny_lines()


def check(tmp_path, splits, lines):
    ferplus.check(votes_of(tmp_path, *lines), splits)


def test_rows_in_order_are_accepted_and_give_their_labels(tmp_path, rows):
    splits, lines = rows
    check(tmp_path, splits, lines)
    found = ferplus.majority(votes_of(tmp_path, *lines), contempt=False)
    for split in splits.values():
        np.testing.assert_array_equal(found[split.rows], split.labels)


def test_votes_of_splits_that_the_csv_lacks_do_no_harm(tmp_path, rows):
    splits, lines = rows
    check(tmp_path, {k: splits[k] for k in ("train", "val")}, lines)


def test_a_csv_without_val_may_have_votes(tmp_path):
    csv = write_tiny_csv(tmp_path / "fer2013.csv", ("Training", "PrivateTest"))
    splits = data.load(str(csv), image_size=16).splits
    check(tmp_path, splits, tiny_lines(("Training", "PrivateTest")))


SHIFT = sum(COUNTS) // 2


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: lines[:-1], "has 383 rows, and the csv beside it at least 384"),
        (lambda lines: [*lines, lines[-1]], "has 385 rows, and the csv beside it 384"),
        (lambda lines: [lines[-1], *lines[1:]], ":2 has Usage 'PrivateTest'"),
        (lambda lines: lines[128:256] + lines[:128] + lines[256:], ":2 has Usage"),
        # The Usage is right, and each row has another's votes.
        (
            lambda lines: (
                lines[:256] + [lines[256 + (i + 40) % 128] for i in range(128)]
            ),
            "in lines 186 to 385 ",
        ),
    ],
)
def test_rows_that_are_not_the_csvs_own_are_refused(tmp_path, rows, change, words):
    splits, lines = rows
    with pytest.raises(UserError, match=words):
        check(tmp_path, splits, change(lines))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "cannot be read as a csv"),
        ("Usage,neutral\nTraining,10\n", "lacks the column 'Image name'"),
        (f"{HEADER}\n{line()[:-1]}x\n", ":2 has a vote that is not a whole number"),
        (f"{HEADER}\n{line()[:-1]}-1\n", ":2 has a vote that is not a whole number"),
    ],
)
def test_a_file_that_is_not_ferplus_is_told(tmp_path, text, words):
    path = tmp_path / ferplus.NAME
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        ferplus.read(path)


# --- the real votes


@pytest.mark.skipif(not (REAL / ferplus.NAME).is_file(), reason="FER2013 is not here")
def test_the_real_votes_count_as_known():
    votes = ferplus.read(REAL / ferplus.NAME)
    _, reason = ferplus.targets(
        votes, soft=False, vote_filter="published", contempt=True
    )
    counts = np.bincount(reason[reason >= 0], minlength=4)
    assert len(reason) == 32_298 and (~votes.named).sum() == 158
    # 160 without a face, 89 unknown, 3,790 with no majority.
    assert counts.tolist() == [160, 89, 3790, 0]


# --- what a run takes of it


@pytest.fixture(scope="module")
def with_votes(tmp_path_factory):
    """A csv with votes beside it: in train some without a face, in val some unknown."""
    folder = tmp_path_factory.mktemp("ferplus")
    write_tiny_csv(folder / "fer2013.csv")
    lines = tiny_lines()
    lines[0] = line(name="", NF=10)
    lines[1] = line(anger=4, sadness=3, fear=3)
    lines[2] = line(contempt=10)
    lines[3] = line(anger=6, sadness=4)
    lines[128] = line("PublicTest", unknown=10)
    lines[129] = line("PublicTest", happiness=10)  # labelled as angry
    write_votes(folder / ferplus.NAME, lines)
    return data.load(str(folder / "fer2013.csv"), image_size=16)


def selected(dataset, **settings):
    items = [f"data.{key}={str(value).lower()}" for key, value in settings.items()]
    settings = tiny_config(*items).data
    return data.select_images(dataset, settings, lambda: audit(dataset))


def test_the_datas_own_labels_stay_and_the_votes_come_beside(with_votes):
    same = selected(with_votes)
    assert same.fingerprint == with_votes.fingerprint and same.subset == ""
    np.testing.assert_array_equal(
        same.splits["train"].images, with_votes.splits["train"].images
    )
    sets = same.splits["val"].label_sets
    np.testing.assert_array_equal(sets["fer2013"], with_votes.splits["val"].labels)
    assert sets["ferplus_majority"][:2].tolist() == [-1, EMOTIONS.index("happy")]
    assert same.splits["train"].label_sets == {}


def test_the_majority_replaces_the_labels_and_what_has_none_is_left_out(with_votes):
    new = selected(with_votes, labels="ferplus_majority")
    train, val = new.splits["train"], new.splits["val"]
    assert len(train.rows) == 128 - 3 and train.rows[0] == 3 and train.soft is None
    assert len(val.rows) == 128 and val.labels[:2].tolist() == [-1, 3]
    assert new.left_out["train"] == {"contempt": 1, "no agreement": 1, "no face": 1}
    assert new.left_out["val"] == {"unknown": 1} and new.left_out["test"] == {}
    assert new.fingerprint != with_votes.fingerprint and new.subset
    assert "train 125 of 128 (1 no face" in new.notes[-1]


def test_soft_labels_and_an_eighth_class(with_votes):
    new = selected(with_votes, labels="ferplus_soft", contempt=True, vote_filter="none")
    train = new.splits["train"]
    assert new.class_names == (*EMOTIONS, "contempt")
    assert train.soft.shape == (127, 8)
    np.testing.assert_allclose(train.soft[0, [0, 4, 2]], [0.4, 0.3, 0.3], atol=1e-6)
    np.testing.assert_array_equal(train.labels, train.soft.argmax(axis=1))


def test_copies_of_val_and_test_are_left_out_of_train(with_votes):
    for kind in ("exact", "near"):
        new = selected(with_votes, deduplicate=kind)
        # The first image of each class is in val too.
        firsts = np.cumsum([0, *COUNTS[:-1]])
        rows = new.splits["train"].rows
        assert not np.isin(firsts, rows).any() and len(rows) == 128 - 7
        assert new.fingerprint == with_votes.fingerprint and new.subset
        assert new.left_out == {"train": {f"{kind} copy": 7}}
        np.testing.assert_array_equal(
            new.splits["val"].labels, with_votes.splits["val"].labels
        )
    both = selected(with_votes, deduplicate="exact", labels="ferplus_majority")
    assert both.left_out["train"]["exact copy"] == 6  # one had no face
    assert len({new.subset, both.subset}) == 2


def test_votes_that_are_missing_or_of_other_images_are_told(tmp_path, tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    with pytest.raises(UserError, match="needs FER.'s fer2013new.csv beside"):
        selected(dataset, labels="ferplus_soft")
    with pytest.raises(UserError, match="data.contempt is true, which only FER"):
        selected(dataset, contempt=True)
    write_tiny_csv(tmp_path / "fer2013.csv")
    write_votes(tmp_path / ferplus.NAME, tiny_lines()[:-1])
    dataset = data.load(str(tmp_path / "fer2013.csv"), image_size=16)
    with pytest.raises(UserError, match="has 383 rows"):
        selected(dataset, labels="ferplus_majority")
    # Where they are not asked for, the run goes on and says so.
    aside = selected(dataset)
    assert "the FER+ votes are not used" in aside.notes[-1]
    assert aside.splits["val"].label_sets == {}


def test_a_choice_that_leaves_nothing_is_told(tmp_path):
    csv = write_tiny_csv(tmp_path / "fer2013.csv")
    dataset = data.load(str(csv), image_size=16)
    lines = tiny_lines()
    fear = slice(sum(COUNTS[:2]), sum(COUNTS[:3]))
    lines[fear] = [line(unknown=10)] * COUNTS[2]
    write_votes(tmp_path / ferplus.NAME, lines)
    with pytest.raises(UserError, match="no train image of 'fear' is left"):
        selected(dataset, labels="ferplus_soft")
    lines = tiny_lines()
    for place in range(128, 256):  # one vote for the label, and nine for unknown
        cells = lines[place].replace(",10", ",1").split(",")
        lines[place] = ",".join([*cells[:-2], "9", cells[-1]])
    write_votes(tmp_path / ferplus.NAME, lines)
    with pytest.raises(UserError, match="no val image of fer2013.csv has a label"):
        selected(dataset, labels="ferplus_soft")
