"""FER+ votes as targets: the map is scikit-learn's, and the command knows its runs."""

import numpy as np
import pytest
import scipy
from conftest import tiny_config, write_tiny_csv
from sklearn.linear_model import LogisticRegression
from votes import tiny_lines, write_votes

from fer_jax import data
from fer_jax.data import soft_targets
from fer_jax.errors import UserError
from fer_jax.inference.targets import from_runs, main, with_votes
from fer_jax.inference.vote_map import fitted
from fer_jax.training.run import train


@pytest.fixture
def answers():
    """Votes, labels and a network's probabilities that each know a part: 3 classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 2000)
    p = 0.15 + 0.4 * np.eye(4)[labels][:, [0, 2, 1, 3]]  # people confuse 1 and 2
    votes = np.stack([rng.multinomial(10, each / each.sum()) for each in p])
    logits = rng.normal(size=(2000, 3)) + 1.5 * np.eye(3)[labels]
    return votes, labels, scipy.special.softmax(logits, axis=1)


def log_loss(p, labels):
    return -np.log(p[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("network", [False, True])
def test_the_map_is_multinomial_logistic_regression(answers, network):
    votes, labels, p = answers
    shares = votes / 10
    features = [np.ones((len(votes), 1)), shares, np.sqrt(shares)]
    x = np.concatenate([*features, *([np.log(p)] if network else [])], axis=1)
    oracle = LogisticRegression(
        C=1 / (2e-5 * len(x)), fit_intercept=False, max_iter=5000, tol=1e-8
    )
    expected = oracle.fit(x, labels).predict_proba(x)
    found = fitted(votes, labels, p if network else None)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_votes_and_a_network_know_more_than_either(answers):
    votes, labels, p = answers
    alone, both = fitted(votes, labels), fitted(votes, labels, p)
    assert log_loss(both, labels) < 0.9 * log_loss(alone, labels)
    assert log_loss(both, labels) < 0.9 * log_loss(p, labels)
    # The votes for 1 and 2 are exchanged, and the map has found that out.
    assert (alone.argmax(axis=1) == labels).mean() > 0.75


def test_an_image_without_votes_gets_the_classes_shares():
    labels = np.repeat([0, 1], [30, 10])
    p = fitted(np.zeros((40, 4), np.int64), labels)
    np.testing.assert_allclose(p, [[0.75, 0.25]] * 40, atol=1e-3)


@pytest.fixture(scope="module")
def voted_csv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voted")
    write_votes(folder / "fer2013new.csv", tiny_lines())
    return write_tiny_csv(folder / "fer2013.csv")


def test_votes_alone_are_targets(voted_csv, tmp_path):
    options = ["--data_root", str(voted_csv), "--image_size", "16"]
    assert main(["--votes", *options, "--to", str(tmp_path / "t.npz")]) == 0
    found = soft_targets.read(tmp_path / "t.npz")
    dataset = data.load(str(voted_csv), image_size=16)
    labels = dataset.splits["train"].labels
    assert found.fingerprint == dataset.fingerprint
    assert found.teachers == ("the FER+ votes",)
    # All ten votes are for the label, so the map is sure of it.
    assert (found.probabilities[np.arange(len(labels)), labels] > 0.95).all()


@pytest.mark.slow
def test_votes_and_folds_are_targets(voted_csv, tmp_path):
    folders = []
    for fold in range(1, 6):
        items = (f"data.fold={fold}", f"name=fold_{fold}", "training.epochs=1")
        train(
            tiny_config(*items, "data.deduplicate=none"),
            data_root=str(voted_csv),
            runs_dir=tmp_path,
        )
        folders.append(tmp_path / f"fold_{fold}" / "seed_42")
    found, alone = with_votes(folders, str(voted_csv)), from_runs(folders, None)
    labels = data.load(str(voted_csv), image_size=16).splits["train"].labels
    np.testing.assert_array_equal(found.rows, alone.rows)
    assert found.teachers == (*alone.teachers, "the FER+ votes")
    assert log_loss(found.probabilities, labels) < log_loss(alone.probabilities, labels)


def test_what_cannot_be_weighed_is_refused(finished_run, tiny_csv, tmp_path):
    folder, _ = finished_run
    to = ["--to", str(tmp_path / "t.npz")]
    with pytest.raises(UserError, match="there is no teacher; name run folders, or"):
        main(to)
    with pytest.raises(UserError, match="trained on the images that it would be asked"):
        main([str(folder), "--votes", "--data_root", str(tiny_csv), *to])
    with pytest.raises(UserError, match=r"--votes needs FER\+'s fer2013new.csv beside"):
        main(["--votes", "--data_root", str(tiny_csv), "--image_size", "16", *to])
