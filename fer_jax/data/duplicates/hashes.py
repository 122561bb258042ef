"""Hashes by which images are recognised without being kept.

A model carries those of the images that it was trained on, so that its scores on other
data can leave out what it has seen. A hash has the signs of the 128 lowest frequencies
of the image's centre (a perceptual hash: C. Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010). They survive JPEG, resizing and a change of
brightness. A shift or a crop changes them, so an image is also looked up moved and
mirrored.
"""

import itertools

import numpy as np

from fer_jax.data.duplicates.filters import SIDE, luma, parts, resampling, thread_pool
from fer_jax.data.lazy_images import Images, read_pixels

WORDS = 2  # of 64 bits
# Of 3,589 FER2013 PublicTest images, 905 have a copy in Training, 280 of them exact.
# At this distance 689 are found, all exact ones among them, and 3 others.
LARGEST_DISTANCE = 20
_MARGIN = 4  # pixels of 48 x 48 at each edge that are not in the centre
_MOVES = tuple(itertools.product((-4, -2, 0, 2, 4), repeat=2))  # down, right
_AT_ONCE, _ROWS = 512, 64  # images, and hashes, that a thread handles at once


def of_images(images: Images) -> np.ndarray:
    """The hash of each image: uint8 `[N, S, S, C]` to uint64 `[N, 2]`."""
    hashes = np.empty((len(images), WORDS), np.uint64)
    for part in parts(len(images), _AT_ONCE):
        hashes[part] = _of_centres(_pixels(images, part), 0, 0)
    return hashes


def are_known(images: Images, hashes: np.ndarray) -> np.ndarray:
    """Whether each image is a copy of a hashed one, perhaps moved or mirrored.

    Args:
      images: uint8 `[N, S, S, C]`.
      hashes: uint64 `[M, 2]`, from `of_images`.

    Returns:
      bool `[N]`.
    """
    found = np.zeros(len(images), bool)

    def look(part: slice) -> None:
        pixels = _pixels(images, part)
        for seen in (pixels, pixels[:, :, ::-1]):
            for move in _MOVES:
                nearest = _distances(_of_centres(seen, *move), hashes)
                found[part] |= nearest <= LARGEST_DISTANCE

    if len(hashes):
        with thread_pool() as pool:
            list(pool.map(look, parts(len(images), _AT_ONCE)))
    return found


def _pixels(images: Images, part: slice) -> np.ndarray:
    """Grey values, float32 `[N, 48, 48]`."""
    grey = luma(read_pixels(images, np.arange(part.start, part.stop)))
    matrix = resampling(grey.shape[1]).astype(np.float32)
    return matrix @ grey.astype(np.float32) @ matrix.T


def _of_centres(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """The hashes of the centres of `[N, 48, 48]`, moved by so many pixels."""
    rows = slice(_MARGIN + down, SIDE - _MARGIN + down)
    columns = slice(_MARGIN + right, SIDE - _MARGIN + right)
    waves = _COSINES @ pixels[:, rows, columns] @ _COSINES.T
    bits = np.ascontiguousarray(waves[:, *_LOWEST] > 0)
    return np.packbits(bits, axis=1).view("<u8")


def _distances(queries: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The Hamming distance of each query to the nearest hash: uint8 `[N]`."""
    nearest = np.empty(len(queries), np.uint8)
    for part in parts(len(queries), _ROWS):
        words = (queries[part, None, w] ^ hashes[:, w] for w in range(WORDS))
        nearest[part] = sum(map(np.bitwise_count, words)).min(axis=1)
    return nearest


def _lowest(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns of the lowest frequencies, without the mean."""
    pairs = itertools.product(range(count), repeat=2)
    in_order = sorted(pairs, key=lambda pair: (sum(pair), pair))
    rows, columns = np.array(in_order[1 : 64 * WORDS + 1]).T
    return rows, columns


def _cosines(count: int) -> np.ndarray:
    """The matrix of the discrete cosine transform (II), float32 `[count, centre]`."""
    size = SIDE - 2 * _MARGIN
    angles = np.pi / size * np.arange(count)[:, None] * (np.arange(size) + 0.5)
    return np.cos(angles).astype(np.float32)


_LOWEST, _COSINES = _lowest(16), _cosines(16)
