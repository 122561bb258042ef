"""Copies among images: what is found, what is not, and what is told of it."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from soak.duplicates import TRANSFORMATIONS, found_at, plant
from threadpoolctl import threadpool_limits

from fer_jax.data.duplicates import candidates
from fer_jax.data.duplicates import search as duplicates
from fer_jax.data.duplicates.cells import Cells
from fer_jax.data.duplicates.filters import luma

ORIGINALS, PLANTED = 400, 12 * len(TRANSFORMATIONS)


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    """Two wait for each other where another process of the suite has a core."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def faces(drawn):
    return np.asarray(drawn["val"].images)[:ORIGINALS]


@pytest.fixture(scope="module")
def planted(faces):
    """Every transformation of a dozen faces, behind the faces."""
    rng = np.random.default_rng(0)
    sources = rng.choice(len(faces), PLANTED, replace=False)
    copies, names = plant(faces, sources, rng)
    images = np.concatenate([faces, copies])
    return images, sources, names, duplicates.find(images)


def resized(images, side):
    method = Image.Resampling.BICUBIC
    return np.stack(
        [
            np.asarray(Image.fromarray(i[:, :, 0]).resize((side, side), method))
            for i in images
        ]
    )[..., None]


def noise(count, side, rng):
    return rng.integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def test_luma_is_that_of_pillow():
    colours = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    expected = [np.asarray(Image.fromarray(image).convert("L")) for image in colours]
    np.testing.assert_array_equal(luma(colours), expected)
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(luma(grey), grey[..., 0])
    np.testing.assert_array_equal(luma(grey.repeat(3, 3)), grey[..., 0])


def test_in_colour_exact_copies_agree_in_all_channels_and_near_ones_in_luma(faces):
    images = np.repeat(faces[:40], 3, axis=3)
    tinted = images[:3].copy()
    tinted[..., 2] = tinted[..., 2] // 2  # blue, a ninth of the brightness
    images = np.concatenate([images, images[:1], tinted])
    images[38], images[39] = 90, (250, 0, 0)  # two of one colour are both blank
    copies = duplicates.find(images)
    assert copies.exact[40] == 0 and copies.exact[41] == 41
    assert duplicates.blank(images)[38:40].all()
    assert {(0, 41), (1, 42), (2, 43)} <= {tuple(pair) for pair in copies.pairs}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_transformation_is_found(planted, name):
    _, sources, names, copies = planted
    correlation = found_at(copies, sources, ORIGINALS)
    assert (correlation[names == name] >= duplicates.NEAR).all()


def test_nothing_else_is_found(planted):
    _, sources, names, copies = planted
    near = names != "identical"
    expected = np.stack([sources, ORIGINALS + np.arange(PLANTED)], axis=1)[near]
    assert copies.pairs.tolist() == sorted(expected.tolist())
    assert copies.complete
    exact = np.arange(ORIGINALS + PLANTED)
    exact[ORIGINALS:][~near] = sources[~near]
    np.testing.assert_array_equal(copies.exact, exact)


def test_forms_and_types(planted):
    _, _, _, copies = planted
    count = len(copies.pairs)
    for array, dtype, shape in (
        (copies.exact, np.int32, (ORIGINALS + PLANTED,)),
        (copies.pairs, np.int32, (count, 2)),
        (copies.correlation, np.float32, (count,)),
        (copies.mirrored, np.bool_, (count,)),
        (copies.scale, np.float32, (count,)),
        (copies.shift, np.int8, (count, 2)),
        (copies.groups(), np.int32, (ORIGINALS + PLANTED,)),
    ):
        assert array.dtype == dtype and array.shape == shape
    assert (copies.pairs[:, 0] < copies.pairs[:, 1]).all()
    assert (copies.correlation >= duplicates.NEAR).all()
    assert (copies.correlation < 1 + 1e-5).all()


def test_mirroring_is_told(planted):
    _, _, names, copies = planted
    kinds = names[copies.pairs[:, 1] - ORIGINALS]
    np.testing.assert_array_equal(
        copies.mirrored, [kind.startswith("mirror") for kind in kinds]
    )


@pytest.mark.parametrize("down, right", [(0, 0), (4, -3), (-2, 0), (-4, 4)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_shift_is_told(faces, down, right, mirrored):
    """The second image is moved, so what it shows lies the other way in the first."""
    moved = np.pad(faces[0], ((4, 4), (4, 4), (0, 0)), mode="edge")
    moved = moved[4 - down : 52 - down, 4 - right : 52 - right]
    if mirrored:
        moved = moved[:, ::-1]
    lighter = (0.8 * moved + 20).astype(np.uint8)
    copies = duplicates.find(np.stack([faces[0], lighter]))
    assert copies.pairs.tolist() == [[0, 1]]
    assert copies.mirrored.tolist() == [mirrored]
    # Mirrored back, the second shows the first's content `down` lower and `right`.
    assert copies.shift.tolist() == [[-down, -right]]
    assert copies.scale[0] == pytest.approx(1, abs=0.01)


def test_the_scale_is_told(faces):
    side, cut = 48, 2
    part = faces[0, cut : side - cut, cut : side - cut]
    larger = resized(part[None], side)[0]
    first, second = (
        duplicates.find(np.stack(pair))
        for pair in ((faces[0], larger), (larger, faces[0]))
    )
    assert first.scale[0] == pytest.approx((side - 2 * cut) / side, abs=0.02)
    assert second.scale[0] == pytest.approx(side / (side - 2 * cut), abs=0.02)


@pytest.mark.parametrize("few", [True, False])
def test_blank_images_pair_only_where_identical(faces, few):
    rng = np.random.default_rng(0)
    blanks = [np.full((48, 48, 1), grey, np.uint8) for grey in (0, 0, 128, 255)]
    blanks += list(rng.integers(100, 104, (6, 48, 48, 1), dtype=np.uint8))
    # What one can just make out, and its mirror image.
    faint = gaussian_filter(rng.normal(size=(48, 48, 1)), (1.5, 1.5, 0))
    faint = np.rint(100 + 2.5 * faint / faint.std()).astype(np.uint8)
    blanks += [faint, faint[:, ::-1]]
    images = np.concatenate([np.stack(blanks), faces[: 20 if few else 200]])
    copies = duplicates.find(images)
    assert not len(copies.pairs)
    assert copies.exact[:12].tolist() == [0, 0, *range(2, 12)]
    np.testing.assert_array_equal(
        duplicates.blank(images), np.arange(len(images)) < len(blanks)
    )


def test_a_detail_on_a_flat_ground_is_no_match():
    """A dot each, far apart: flat centres must not correlate with one another."""
    images = np.full((3, 48, 48, 1), 90, np.uint8)
    images[0, 2:6, 2:6], images[1, 40:46, 3:6], images[2, 3:8, 42:45] = 255, 255, 0
    assert not duplicates.blank(images).any()
    assert not len(duplicates.find(images).pairs)


@pytest.mark.parametrize("count", [40, 300])
@pytest.mark.parametrize("side", [16, 48, 100])
def test_unrelated_noise_is_not_paired(count, side):
    images = noise(count, side, np.random.default_rng(side))
    assert not len(duplicates.find(images).pairs)


@pytest.mark.parametrize("side", [16, 100, 224])
def test_other_sizes(faces, side):
    rng = np.random.default_rng(side)
    images = resized(faces[:160], side)
    mirrored = images[:10, :, ::-1]
    darker = (0.8 * images[10:20]).astype(np.uint8)
    move = round(side / 16)
    edges = ((0, 0), (move, 0), (move, 0), (0, 0))
    moved = np.pad(images[20:30], edges, mode="edge")[:, :side, :side]
    noisy = images[30:40] + rng.normal(0, 2, images[30:40].shape)
    noisy = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    copies = duplicates.find(np.concatenate([images, mirrored, darker, moved, noisy]))
    assert copies.pairs.tolist() == [[i, 160 + i] for i in range(40)]
    assert copies.mirrored.tolist() == [True] * 10 + [False] * 30
    assert (copies.shift[20:30] == -move).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_none_one_and_two(faces, count):
    copies = duplicates.find(faces[:count])
    assert copies.exact.tolist() == copies.groups().tolist() == list(range(count))
    assert copies.pairs.shape == (0, 2) and copies.shift.shape == (0, 2)
    assert copies.complete
    assert duplicates.blank(faces[:count]).tolist() == [False] * count
    both = duplicates.find(np.concatenate([faces[:count], faces[:count]]))
    assert both.exact.tolist() == 2 * list(range(count)) and not len(both.pairs)


def test_the_same_on_every_call(planted):
    images, _, _, copies = planted
    assert_same(duplicates.find(images), copies)


def assert_same(one, two):
    for field in dataclasses.fields(one):
        mine, theirs = getattr(one, field.name), getattr(two, field.name)
        np.testing.assert_array_equal(mine, theirs)


def test_cells_find_what_comparing_all_pairs_finds(planted, monkeypatch):
    images, _, _, copies = planted
    monkeypatch.setattr(Cells.__init__, "__defaults__", (10**6,))
    every = duplicates.find(images)
    mine, all_pairs = (set(map(tuple, c.pairs.tolist())) for c in (copies, every))
    assert mine <= all_pairs and len(mine) > 0.99 * len(all_pairs)


def test_working_in_parts_changes_nothing(planted, monkeypatch):
    images, _, _, copies = planted
    monkeypatch.setattr(duplicates, "_HELD", 256)
    monkeypatch.setattr(candidates, "_AT_ONCE", 100)
    in_parts = duplicates.find(images)
    np.testing.assert_array_equal(in_parts.pairs, copies.pairs)
    np.testing.assert_allclose(in_parts.correlation, copies.correlation, atol=1e-5)


def test_exact_is_what_sorting_says(planted):
    images = planted[0]
    pixels = images.reshape(len(images), -1)
    _, first, kind = np.unique(pixels, axis=0, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(duplicates.exact(images), first[kind.ravel()])


def test_a_group_is_what_copies_link(faces):
    """Face 0 twice, face 1, face 2, face 1 mirrored, face 2 again, face 1 darker."""
    one, two = faces[1:2], faces[2:3]
    darker = (0.9 * one).astype(np.uint8)
    parts = [faces[:1], faces[:1], one, two, one[:, :, ::-1], two, darker]
    copies = duplicates.find(np.concatenate(parts))
    assert copies.pairs.tolist() == [[2, 4], [2, 6], [4, 6]]
    assert copies.exact.tolist() == [0, 0, 2, 3, 4, 3, 6]
    assert copies.groups().tolist() == [0, 0, 2, 3, 2, 3, 2]


def test_too_many_candidates_are_bounded_and_told(faces):
    """A thousand of one face: half a million pairs are alike, few may be looked at."""
    rng = np.random.default_rng(0)
    images = faces[:1] + rng.integers(0, 8, (1000, 48, 48, 1), dtype=np.uint8)
    images = np.concatenate([images, faces[1:200]])
    copies = duplicates.find(images, max_candidates=2000)
    assert not copies.complete and copies.least > duplicates.ENOUGH
    assert 1800 < len(copies.pairs) <= 2000
    assert (copies.pairs < 1000).all()


def test_the_most_similar_candidates_are_kept(planted):
    images, _, _, copies = planted
    places = np.arange(len(images))
    every = candidates.find(images, places, 10**6)
    some = candidates.find(images, places, 100)
    assert every.least == candidates.CANDIDATE < some.least
    assert len(every.first) > 100 == len(some.first)
    kept = [set(zip(*map(list, each[:3]), strict=True)) for each in (every, some)]
    assert kept[1] < kept[0]
    few = duplicates.find(images, max_candidates=100)
    assert few.least > every.least and len(few.pairs) < len(copies.pairs)
