import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
)
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from threadpoolctl import threadpool_limits

from fer_jax.compare import calibration, statistics
from fer_jax.compare.permutation import permutation_tests
from fer_jax.compare.statistics import Replicates, Tally
from fer_jax.metrics import metric_names, scores_of_counts

sys.path.insert(0, str(Path(__file__).parents[1] / "soak"))

from simulate import World, simulate

C = 4


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 2000)
    with threadpool_limits(1):  # small products, and another worker beside this one
        yield


def draw(rng, n=200, runs=3, skill=0.6):
    """Labels `[N]`, and the predictions of some runs `[R, N]`."""
    labels = rng.integers(C, size=n)
    guesses = rng.integers(C, size=(runs, n))
    return labels, np.where(rng.random((runs, n)) < skill, labels, guesses)


def tally(labels, predicted, image_ids=None):
    ids = np.arange(len(labels)) if image_ids is None else image_ids
    return statistics.tally(labels, ids, predicted, C)


def flat(labels, predicted, experiments, rng, image_ids=None):
    return statistics.bootstrap(tally(labels, predicted, image_ids), experiments, rng)


# --- scores -------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [None, "label", "prediction", "both"])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_are_scikit_learns(absent):
    rng = np.random.default_rng(0)
    labels, predicted = draw(rng)
    if absent in ("label", "both"):
        labels = np.where(labels == 2, 1, labels)
    if absent in ("prediction", "both"):
        predicted = np.where(predicted == 2, 1, predicted)
    ids = rng.integers(50, size=len(labels))  # groups must not change a sum
    found = scores_of_counts(*tally(labels, predicted, ids).total())
    names = metric_names("abcd")
    for run, got in zip(predicted, found, strict=True):
        precision, recall, f1, support = precision_recall_fscore_support(
            labels, run, labels=range(C), zero_division=0
        )
        expected = {
            "accuracy": accuracy_score(labels, run),
            "macro_f1": f1_score(
                labels,
                run,
                labels=np.unique(labels),
                average="macro",
                zero_division=0,
            ),
            "balanced_accuracy": balanced_accuracy_score(labels, run),
        }
        for c, name in enumerate("abcd"):
            gone = np.nan if support[c] == 0 else 0
            expected |= {
                f"f1_{name}": f1[c] + gone,
                f"precision_{name}": precision[c] + gone,
                f"recall_{name}": recall[c] + gone,
            }
        want = [expected[name] for name in names]
        np.testing.assert_allclose(got, want, atol=1e-9, rtol=0)


def test_weighted_scores_are_those_of_repeated_images():
    rng = np.random.default_rng(1)
    labels, predicted = draw(rng)
    times = rng.integers(4, size=len(labels))
    again = np.repeat(np.arange(len(labels)), times)
    counts = tally(labels, predicted).weighted(times[None].astype(np.float32))
    expected = scores_of_counts(*tally(labels[again], predicted[:, again]).total())
    np.testing.assert_allclose(scores_of_counts(*counts)[0], expected, atol=1e-6)


# --- intervals ----------------------------------------------------------------------


def test_the_interval_of_one_run_is_scipys_bootstrap():
    rng = np.random.default_rng(2)
    labels, predicted = draw(rng, n=400, runs=1)
    found = statistics.interval(flat(labels, predicted, [[0]], rng).draws(0))
    for k, metric in enumerate([accuracy, macro_f1]):
        reference = stats.bootstrap(
            (labels, predicted[0]),
            metric,
            paired=True,
            vectorized=False,
            n_resamples=2000,
            method="percentile",
            rng=np.random.default_rng(3),
        )
        ends = (found[0][k], found[1][k])
        width = ends[1] - ends[0]
        # Both ends are quantiles of some thousand draws.
        assert ends == pytest.approx(reference.confidence_interval, abs=0.06 * width)


def accuracy(labels, predicted):
    return (labels == predicted).mean()


def macro_f1(labels, predicted):
    """Faster than scikit-learn's; the average over the classes with images."""
    matrix = np.bincount(labels * C + predicted, minlength=C * C).reshape(C, C)
    present = matrix.sum(1) > 0
    return (2 * np.diag(matrix) / (matrix.sum(0) + matrix.sum(1)))[present].mean()


def test_identical_images_are_drawn_together():
    rng = np.random.default_rng(4)
    labels, predicted = draw(rng, n=300, runs=1)
    twice = np.tile(labels, 2), np.tile(predicted, (1, 2))
    ids = np.tile(np.arange(300), 2)

    def width(labels, predicted, ids):
        ends = statistics.interval(
            flat(labels, predicted, [[0]], rng, ids).draws(0)[:, :1]
        )
        return (ends[1] - ends[0])[0]

    single = width(labels, predicted, None)
    assert width(*twice, ids) == pytest.approx(single, rel=0.08)
    assert width(*twice, None) == pytest.approx(single / 2**0.5, rel=0.08)


def test_draws_of_equal_runs_do_not_differ():
    rng = np.random.default_rng(5)
    labels, predicted = draw(rng, runs=1)
    replicates = flat(labels, np.repeat(predicted, 2, axis=0), [[0], [1]], rng)
    # The same images are drawn for both, and nothing else is chance with a seed each.
    np.testing.assert_array_equal(replicates.draws(0), replicates.draws(1))


def test_what_never_differs_has_no_interval():
    labels = np.repeat(np.arange(C), 20)
    predicted = np.where(labels == 1, 0, labels)[None]  # class 1 is never found
    low, high = statistics.interval(
        flat(labels, predicted, [[0]], np.random.default_rng(0)).draws(0)
    )
    names = metric_names("abcd")
    lost = {name for name, end in zip(names, low, strict=True) if np.isnan(end)}
    assert {"f1_b", "recall_b", "precision_b"} <= lost
    assert "accuracy" not in lost and "f1_a" not in lost
    np.testing.assert_array_equal(np.isnan(low), np.isnan(high))


# --- the seeds' part ----------------------------------------------------------------


def test_networks_that_only_differ_by_chance_have_no_spread_of_seeds():
    rng = np.random.default_rng(6)
    labels, predicted = draw(rng, n=300, runs=80)
    replicates = flat(labels, predicted, [range(80)], rng)
    assert replicates.degrees == 79
    # The scores of the runs vary by 0.7 * 0.3 / 300, which is all the images' doing.
    alone = np.var((predicted == labels).mean(axis=1), ddof=1)
    assert alone == pytest.approx(0.7 * 0.3 / 300, rel=0.3)
    assert 80 * replicates.seed_variance[0, 0] < 0.3 * alone


def test_the_spread_of_the_seeds_is_found():
    rng = np.random.default_rng(7)
    found = []
    for _ in range(15):
        labels = rng.integers(C, size=200)
        skills = 0.6 + 0.1 * rng.normal(size=8)
        wrong = (labels + rng.integers(1, C, size=(8, 200))) % C
        right = rng.random((8, 200)) < skills[:, None]
        replicates = flat(labels, np.where(right, labels, wrong), [range(8)], rng)
        found.append(replicates.seed_variance[0, 0])
    assert np.mean(found) == pytest.approx(0.1**2 / 8, rel=0.25)


def test_a_single_seed_borrows_the_spread_of_the_others():
    rng = np.random.default_rng(8)
    labels = rng.integers(C, size=300)
    right = rng.random((5, 300)) < np.array([0.3, 0.5, 0.7, 0.9, 0.6])[:, None]
    predicted = np.where(right, labels, (labels + 1) % C)
    replicates = flat(labels, predicted, [range(4), [4]], rng)
    several, one = replicates.seed_variance[:, 0]
    assert one == pytest.approx(4 * several)
    assert replicates.degrees == 3
    assert np.isnan(replicates.sd[1]).all()


def test_a_class_of_three_images_is_compared_with_what_it_has():
    rng = np.random.default_rng(15)
    labels = np.repeat(np.arange(C), (60, 60, 60, 3))  # often absent from a draw
    wrong = (labels + 1) % C
    predicted = np.where(rng.random((6, len(labels))) < 0.7, labels, wrong)
    predicted[:3, -3:], predicted[3:, -3] = C - 1, C - 1
    predicted[3:, -2:] = 0
    members, where = [range(3), range(3, 6)], metric_names("abcd")
    counts = tally(labels, predicted)
    replicates = statistics.bootstrap(counts, members, rng)
    # A draw without the class scores it anything from 0 to 1, the same for all runs.
    gone = np.isnan(replicates.images[:, 0, where.index("f1_d")])
    assert 0.01 < gone.mean() < 0.1
    f1 = [where.index(f"f1_{name}") for name in "abcd"]
    mean = np.nan_to_num(replicates.images[..., f1]).mean(axis=-1)
    guess = C * (replicates.images[..., where.index("macro_f1")] - mean)
    np.testing.assert_allclose(guess[~gone], 0, atol=1e-5)
    np.testing.assert_allclose(guess[:, 0], guess[:, 1], atol=1e-5)
    assert stats.kstest(guess[gone, 0], "uniform").pvalue > 0.001
    assert not np.isnan(replicates.seed_variance).any()
    found = statistics.difference(replicates, 0, 1)
    p = permutation_tests(counts, members, [(0, 1)], replicates, rng)[0]
    for name in ("f1_d", "recall_d"):
        k = where.index(name)
        assert found.low[k] < found.value[k] <= found.high[k]
    # Two images speak for it, and of their four swaps two are as large.
    assert p[where.index("recall_d")] == pytest.approx(0.5, abs=0.05)


def test_an_image_of_each_class_has_an_interval_around_its_score():
    labels = np.arange(8) % 7
    predicted = np.array([[0, 1, 2, 3, 4, 0, 6, 0]])  # 85.7 % balanced accuracy
    replicates = flat(labels, predicted, [[0]], np.random.default_rng(16))
    low, high = statistics.interval(replicates.draws(0))
    assert (low[:3] < replicates.values[0, :3]).all()
    assert (replicates.values[0, :3] < high[:3]).all()


# --- tests --------------------------------------------------------------------------


class AllWays:
    """Stands for a generator: gives every way to swap `bits` images, once each."""

    def __init__(self, bits):
        self.ways = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
        self.at = 0

    def integers(self, high, size):
        assert high == 2
        rows = self.ways[self.at : self.at + size[0]]
        self.at += size[0]
        return rows


def test_the_permutation_test_over_all_ways_is_scipys():
    rng = np.random.default_rng(9)
    labels, predicted = draw(rng, n=8, runs=2)
    counts = tally(labels, predicted)
    values = scores_of_counts(*counts.total())
    still = Replicates(
        values=values,
        sd=values,
        images=np.zeros((2**8, *values.shape)),
        seed_variance=np.zeros_like(values),
        degrees=0,
        student=np.zeros((2**8, 2)),
    )
    members, pairs = [[0], [1]], [(0, 1)]
    p = permutation_tests(counts, members, pairs, still, AllWays(8), draws=2**8)[0]
    for k, metric in enumerate([accuracy, macro_f1]):
        reference = stats.permutation_test(
            predicted,
            lambda one, other, metric=metric: (
                metric(labels, one) - metric(labels, other)
            ),
            permutation_type="samples",
            vectorized=False,
            n_resamples=np.inf,
        )
        # Ours counts the data themselves as one draw more.
        assert (p[k] * (2**8 + 1) - 1) / 2**8 == pytest.approx(
            reference.pvalue, abs=1e-9
        )


def test_unequal_numbers_of_seeds_swap_alike():
    rng = np.random.default_rng(16)
    labels, predicted = draw(rng, n=60, runs=6)
    predicted[1:] = np.where(rng.random((5, 60)) < 0.2, labels, predicted[1:])

    def p_value(order):
        counts = tally(labels, predicted[[0, *order]])
        members = [[0], range(1, 6)]
        replicates = statistics.bootstrap(counts, members, np.random.default_rng(0))
        return permutation_tests(
            counts, members, [(0, 1)], replicates, np.random.default_rng(1)
        )[0]

    # Which seed comes first plays no part, and which experiment neither.
    first = p_value([1, 2, 3, 4, 5])
    np.testing.assert_allclose(p_value([4, 5, 1, 2, 3]), first, atol=1e-12)


def test_tests_of_large_families_have_the_draws_that_holm_asks_for():
    for comparisons in (1, 11, 77, 300):
        smallest = 1 / (statistics.enough_draws(comparisons) + 1)
        assert comparisons * smallest < 0.1 * statistics.ALPHA


def test_swapping_keeps_identical_images_and_all_seeds_together():
    labels = np.zeros(6, int)
    predicted = np.array([[0] * 6, [0] * 6, [1] * 6, [1] * 6])
    counts = tally(labels, predicted, np.zeros(6, int))  # one image, six times
    replicates = statistics.bootstrap(counts, [[0, 1], [2, 3]], np.random.default_rng())
    rng = np.random.default_rng(0)
    p = permutation_tests(counts, [[0, 1], [2, 3]], [(0, 1)], replicates, rng)
    assert p[0, 0] == 1  # swapped or not, all or nothing is right


@pytest.mark.parametrize("table", [(8, 2), (0, 5), (30, 31), (0, 0)])
def test_mcnemar_is_statsmodels(table):
    wins, losses = table
    labels = np.zeros(100, int)
    one, other = np.zeros(100, int), np.zeros(100, int)
    other[:wins], one[wins : wins + losses] = 1, 1
    expected = mcnemar([[100 - wins - losses, wins], [losses, 0]], exact=True).pvalue
    found = statistics.mcnemar(labels, np.arange(100), one, other)
    assert found == pytest.approx(expected, abs=1e-9)
    # Copies of an image are no further evidence.
    twice = [np.tile(each, 2) for each in (labels, np.arange(100), one, other)]
    assert statistics.mcnemar(*twice) == pytest.approx(expected, abs=1e-9)


def test_holm_is_statsmodels_and_passes_over_what_has_no_test():
    p = np.random.default_rng(10).random((5, 7)) ** 4
    p[2, 3] = np.nan
    adjusted = statistics.holm(p)
    assert np.isnan(adjusted[2, 3])
    kept = ~np.isnan(p)
    expected = multipletests(p[kept], method="holm")[1]
    np.testing.assert_allclose(adjusted[kept], expected, atol=1e-9, rtol=0)


# --- the figures of one set, to the digit -------------------------------------------


def figures(classes=C, draws=600):
    """Five runs of three experiments, of which none ever finds class 2; some copies."""
    rng = np.random.default_rng(21)
    labels, ids = rng.integers(classes, size=90), rng.integers(70, size=90)
    skills = np.array([0.5, 0.6, 0.55, 0.7, 0.4])[:, None]
    guesses = rng.integers(classes, size=(5, 90))
    predicted = np.where(rng.random((5, 90)) < skills, labels, guesses)
    predicted = np.where(predicted == 2, 1, predicted)
    labels = np.where(labels == 0, 1, labels)  # and class 0 has no images
    counts = statistics.tally(labels, ids, predicted, classes)
    members, pairs = [[0, 1, 2], [3], [4, 2]], [(1, 0), (2, 0), (2, 1)]
    replicates = statistics.bootstrap(counts, members, rng)
    p = permutation_tests(counts, members, pairs, replicates, rng, draws)
    found = [statistics.difference(replicates, *pair) for pair in pairs]
    return found, np.nan_to_num(p * (draws + 1), nan=-1).round(6)


# Of each pair: the draws that differ as much, of 601; -1 without a test.
MORE = [
    [437, 285, 391, -1, 297, 601, 253, -1, 111, 601, 210, -1, 601, 601, 440],
    [420, 411, 392, -1, 541, 601, 355, -1, 593, 601, 390, -1, 499, 601, 351],
    [359, 243, 334, -1, 330, 601, 204, -1, 210, 601, 188, -1, 475, 601, 268],
]
# Of each pair: differences, ends, errors of the overall metrics; detectable accuracy.
FIGURES = [
    (
        [0.018518518518518545, 0.05271409412220829, 0.020933977455716568],
        [-0.1066159480483894, -0.1336702307009497, -0.08321682675755665],
        [0.13723548920613524, 0.2282673545150308, 0.10975850507267865],
        [0.050393626125449655, 0.060542141998021784, 0.04471111071563947],
        [0.1454927786892206, 0.19746194058904676],
    ),
    (
        [-0.025925925925925908, -0.03090644537875825, -0.02797906602254424],
        [-0.1883818246929859, -0.2351459625231548, -0.18198011727827756],
        [0.15165115231765447, 0.1814212222459227, 0.13231718089850109],
        [0.05987752323895859, 0.06991984183610774, 0.05704659471120496],
        [0.19442473851241387, 0.30497494157130756],
    ),
    (
        [-0.04444444444444445, -0.08362053950096654, -0.04891304347826081],
        [-0.23997653765557034, -0.332600663983791, -0.2161918958897038],
        [0.1480073772985255, 0.1700764289206692, 0.12410722127554814],
        [0.07114508045311428, 0.08242613083008003, 0.06644916936550563],
        [0.21966913272465904, 0.32294303697943333],
    ),
]
MORE_OF_NINE = [
    [385, 326, 355, -1, 317, 601, 391, 371, 537, 321, 40, 444],
    [419, 341, 355, -1, 561, 601, 178, 337, 583, 410, 259, 398],
    [318, 242, 283, -1, 335, 601, 195, 587, 587, 227, 58, 327],
]


def test_figures_are_those_of_the_first_version():
    """Recorded once: a faster way to compute them must not change them."""
    found, more = figures()
    np.testing.assert_array_equal(more, MORE)
    for difference, (value, low, high, error, detectable) in zip(
        found, FIGURES, strict=True
    ):
        overall = slice(0, 3)
        np.testing.assert_allclose(difference.value[overall], value, rtol=1e-12)
        np.testing.assert_allclose(difference.low[overall], low, rtol=1e-12)
        np.testing.assert_allclose(difference.high[overall], high, rtol=1e-12)
        np.testing.assert_allclose(difference.error[overall], error, rtol=1e-12)
        sizes = [difference.detectable(n)[0] for n in (1, 11)]
        np.testing.assert_allclose(sizes, detectable, rtol=1e-12)


def test_p_values_of_nine_classes_are_those_of_the_first_version():
    """From eight terms on, NumPy's sum over a last axis adds them in pairs."""
    more = figures(classes=9)[1]
    np.testing.assert_array_equal(more[:, :12], MORE_OF_NINE)


# --- calibration --------------------------------------------------------------------


def test_reliability_is_scikit_learns_curve():
    rng = np.random.default_rng(11)
    confidence = rng.random(500) ** 0.5
    correct = rng.random(500) < confidence
    found = calibration.reliability(confidence, correct)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=calibration.BINS)
    filled = found.images > 0
    np.testing.assert_allclose(found.accuracy[filled], accuracy, atol=1e-9)
    np.testing.assert_allclose(found.confidence[filled], mean, atol=1e-9)
    assert found.images.sum() == 500


def test_calibration_error_of_a_case_worked_by_hand():
    # 0.95 three times, right twice; 0.5 once, wrong: (3 |0.95 - 2/3| + |0.5 - 0|) / 4
    found = calibration.reliability(
        np.array([0.95, 0.95, 0.95, 0.5]), np.array([True, True, False, False])
    )
    assert found.error() == pytest.approx((3 * (0.95 - 2 / 3) + 0.5) / 4)


# --- shown right by simulation ------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "network"), [(1, 0.0), (3, 0.12)])
def test_intervals_cover_and_tests_do_not_cry_wolf(seeds, network, monkeypatch):
    """Over 1,000 experiments; `tests/soak/simulate.py` does it in FER2013's size."""
    monkeypatch.setattr(statistics, "DRAWS", 300)
    world, rounds = World(support=(50, 25, 50, 75), network=network), 1000
    rng = np.random.default_rng(12)
    truth = [world.truth(rng, networks=200, n=5000)] * 2
    held, held_difference, rejected, _ = simulate(
        world, rng, seeds=seeds, experiments=3, rounds=rounds, truth=truth
    )
    overall = slice(0, 3)
    for covered in (held, held_difference):
        assert (covered[overall] >= 0.93).all() and (covered[overall] <= 0.97).all()
        assert 0.93 <= covered.mean() <= 0.97
    assert rejected.mean() <= 0.055
    error = (0.05 * 0.95 / rounds) ** 0.5  # of a share of so many rounds
    assert (rejected[overall] <= 0.055 + 2 * error).all()


@pytest.mark.slow
def test_the_detectable_difference_is_detected_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 300)
    world, more = World(support=(80, 80, 80), network=0.0), 0.55
    rng, macro = np.random.default_rng(13), 1
    truth = [world.truth(rng, networks=100, n=5000, more_skill=x) for x in (0, more)]
    _, _, rejected, detectable = simulate(
        world, rng, seeds=1, experiments=2, rounds=300, truth=truth, more_skill=more
    )
    real = (truth[1] - truth[0])[macro]
    # How often a difference of this size should be found, by the normal distribution.
    needed, power = stats.norm.isf(0.025), stats.norm.ppf(0.8)
    expected = stats.norm.sf(needed - real * (needed + power) / detectable[macro])
    assert 0.4 < expected < 0.95  # else it would tell nothing
    assert rejected[macro] == pytest.approx(expected, abs=0.07)


def test_the_same_runs_are_told_with_the_same_figures():
    rng = np.random.default_rng(14)
    labels, predicted = draw(rng, runs=6)
    counts: Tally = tally(labels, predicted)
    once, again = (
        statistics.bootstrap(counts, [range(3), range(3, 6)], np.random.default_rng(0))
        for _ in range(2)
    )
    np.testing.assert_array_equal(once.draws(1), again.draws(1))


def test_the_temperature_is_recovered_and_makes_the_error_small():
    """Labels drawn from a softmax; its logits times 3 are three times too sure."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(20_000, 7))
    p = special.softmax(logits, axis=1)
    labels = (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)
    found = calibration.calibrated(3 * logits, labels)
    assert found["temperature"] == pytest.approx(3, abs=0.1)
    assert found["ece_after"] < 0.02 < 0.1 < found["ece_before"]


def test_a_temperature_of_all_right_is_finite():
    logits = 5 * np.eye(7)[[0, 1, 2]]
    assert 0.04 < calibration.fit_temperature(logits, np.array([0, 1, 2])) < 1
