"""Plants near copies in a data set and measures which are found.

    python tests/soak/duplicates.py --planted 2000 --data_root fer2013.csv.xz

Random images are copied with each transformation, alone and combined, and appended. The
output says how many copies were found, by transformation, and how many pairs join a
planted copy with an image that is not linked to its original. `--sheets FOLDER` draws
the pairs of two originals side by side, the least similar first; it shows the data set,
so keep it out of repositories.
"""

import argparse
import dataclasses
import io
import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIDE = 48  # where pixels are counted, they are those of 48 x 48 images


def mirror(image, rng):
    return image[:, ::-1]


def shift(image, rng):
    """By up to 4 pixels of 48 each way; the edges are repeated, black or reflected."""
    side = len(image)
    most = max(4 * side // SIDE, 1)
    down, right = rng.integers(-most, most + 1, 2)
    down += not (down or right)
    fill = ("edge", "constant", "reflect")[rng.integers(3)]
    padded = np.pad(image, most, mode=fill)
    rows, columns = most - down, most - right
    return padded[rows : rows + side, columns : columns + side]


def crop(image, rng):
    """By up to 2 pixels of 48 at each edge, enlarged to what it was."""
    side = len(image)
    top, bottom, left, right = np.rint(rng.uniform(0, 2, 4) * side / SIDE).astype(int)
    part = image[top : side - bottom, left : side - right]
    return _resized(part, side, Image.Resampling.BICUBIC)


def light(image, rng):
    grey = rng.uniform(0.7, 1.3) * image + rng.uniform(-40, 40)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def jpeg(image, rng):
    file = io.BytesIO()
    quality = int(rng.integers(50, 96))
    Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blur(image, rng):
    sigma = rng.uniform(0.5, 1.2) * len(image) / SIDE
    return np.rint(gaussian_filter(image.astype(float), sigma)).astype(np.uint8)


def resize(image, rng):
    """Smaller or larger, and back."""
    between = round(rng.uniform(0.6, 1.5) * len(image))
    small = _resized(image, between, Image.Resampling.BILINEAR)
    return _resized(small, len(image), Image.Resampling.BILINEAR)


def _resized(image, side, method):
    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize((side, side), method))


def identity(image, rng):
    return image


TRANSFORMATIONS = {
    "identical": (identity,),
    "mirror": (mirror,),
    "shift": (shift,),
    "light": (light,),
    "jpeg": (jpeg,),
    "mirror, shift": (mirror, shift),
    "shift, light": (shift, light),
    "mirror, jpeg": (mirror, jpeg),
    "light, jpeg": (light, jpeg),
    "mirror, shift, light": (mirror, shift, light),
    "mirror, shift, light, jpeg": (mirror, shift, light, jpeg),
    "blur": (blur,),
    "resize": (resize,),
    "crop": (crop,),
    "mirror, crop, light, jpeg": (mirror, crop, light, jpeg),
    "shift, blur, light, jpeg": (shift, blur, light, jpeg),
}


def plant(images, sources, rng):
    """Copies of `images[sources]`, uint8 `[P, S, S, 1]`, and their kinds' names."""
    kinds = list(TRANSFORMATIONS)
    names = [kinds[place % len(kinds)] for place in range(len(sources))]
    copies = []
    for source, name in zip(sources, names, strict=True):
        image = images[source, :, :, 0]
        for change in TRANSFORMATIONS[name]:
            image = change(image, rng)
        copies.append(image)
    return np.stack(copies)[..., None], np.array(names)


def found_at(copies, sources, count):
    """The correlation of each planted copy with its original; 0 where not found.

    The copies lie behind the `count` originals, in the order of `sources`.
    """
    known = dict(
        zip(map(tuple, copies.pairs.tolist()), copies.correlation, strict=True)
    )
    correlation = np.zeros(len(sources))
    for at, source in enumerate(sources):
        # The first of an exact group stands for its images, planted or not.
        pair = tuple(sorted((copies.exact[source], copies.exact[count + at])))
        correlation[at] = 1 if pair[0] == pair[1] else known.get(pair, 0)
    return correlation


def unexplained(copies, sources, count):
    """Places of the pairs of two originals, and of those that should not be.

    The latter join a planted copy with an image that no pairs link to its original;
    some are copies all the same, more like the planted one than like its original.
    """
    own = (copies.pairs < count).all(axis=1)
    alone = dataclasses.replace(
        copies, exact=copies.exact[:count], pairs=copies.pairs[own]
    )
    group = alone.groups()[np.concatenate([np.arange(count), sources])]
    one, two = group[copies.pairs].T
    return np.flatnonzero(own), np.flatnonzero(one != two)


def memory_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def facts(dataset):
    """What can be counted of identical and blank images, in words."""
    from fer_jax.data.duplicates import search as duplicates

    images = np.concatenate([split.images for split in dataset.splits.values()])
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    exact, start = duplicates.exact(images), 0
    print(f"{len(images):,} images, {len(np.unique(exact)):,} unique, ", end="")
    print(f"{duplicates.blank(images).sum()} blank")
    mixed = len(np.unique(exact[labels != labels[exact]]))
    print(f"{mixed} groups of identical images carry different labels")
    for name, split in dataset.splits.items():
        known = exact[start : start + len(split.rows)] < start
        if start:
            print(f"{known.sum()} images of {name} are identical with earlier splits'")
        start += len(split.rows)
    return images


def report(names, correlation):
    """The table: of each transformation how many were planted and found."""
    found = correlation > 0
    print(f"\n{'planted':30}{'':>8}{'found':>8}{'%':>8}   correlation: 1 %, median")
    for name in (*TRANSFORMATIONS, "all"):
        those = (names == name) | (name == "all")
        share = 100 * found[those].mean()
        low, middle = np.quantile(correlation[those & found], (0.01, 0.5))
        print(
            f"{name:30}{those.sum():8}{found[those].sum():8}{share:8.1f}"
            f"{low:11.3f}{middle:9.3f}"
        )


def sheet(images, copies, which, file, columns=6):
    """Draws pairs side by side, the second as it is mirrored in the first."""
    rows = -(-len(which) // columns)
    side = images.shape[1]
    page = np.full((rows * (side + 4), columns * (2 * side + 6)), 255, np.uint8)
    for place, pair in enumerate(which):
        top, left = (side + 4) * (place // columns), (2 * side + 6) * (place % columns)
        one, two = images[copies.pairs[pair], :, :, 0]
        two = two[:, ::-1] if copies.mirrored[pair] else two
        page[top : top + side, left : left + 2 * side] = np.hstack([one, two])
    Image.fromarray(page).resize((2 * page.shape[1], 2 * page.shape[0])).save(file)


def sheets(images, copies, which, folder):
    """The pairs `which`, 60 a page, the least alike first; at most 20 pages."""
    folder.mkdir(parents=True, exist_ok=True)
    which = which[np.argsort(copies.correlation[which], kind="stable")]
    for page in range(0, min(len(which), 1200), 60):
        part = which[page : page + 60]
        name = f"{page // 60:02}_from_{copies.correlation[part[0]]:.3f}.png"
        sheet(images, copies, part, folder / name)


def search(every, near):
    """Finds the copies, and prints what that takes."""
    from fer_jax.data.duplicates import search as duplicates

    before, start = memory_mb(), time.monotonic()
    copies = duplicates.find(every, near=near or duplicates.NEAR)
    seconds = time.monotonic() - start
    print(f"\n{len(every):,} images searched in {seconds:.1f} s; ", end="")
    print(f"peak memory {memory_mb():,.0f} MB, {before:,.0f} MB of it before")
    print(f"looked at pairs from similarity {copies.least:.3f}: ", end="")
    print("complete" if copies.complete else "NOT complete")
    return copies


def main(argv=None):
    """The command line; 0 if 99 % of the planted copies are found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--planted", type=int, default=2000)
    parser.add_argument("--data_root")
    parser.add_argument("--images", type=int, help="take so many, drawn at random")
    parser.add_argument("--near", type=float, help="another least correlation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheets", type=Path, help="a folder for pictures of pairs")
    args = parser.parse_args(argv)

    from fer_jax.data import load
    from fer_jax.data.duplicates import search as duplicates

    rng = np.random.default_rng(args.seed)
    images = facts(load(args.data_root))
    if args.images:
        images = images[np.sort(rng.permutation(len(images))[: args.images])]
    usable, count = np.flatnonzero(~duplicates.blank(images)), len(images)
    sources = rng.choice(usable, min(args.planted, len(usable)), replace=False)
    planted, names = plant(images, sources, rng)
    every = np.concatenate([images, planted])
    copies = search(every, args.near)
    correlation = found_at(copies, sources, count)
    report(names, correlation)
    own, others = unexplained(copies, sources, count)
    print(f"\n{len(copies.pairs):,} near pairs, {len(own):,} of them of two originals")
    share = 100 * len(others) / max(len(copies.pairs), 1)
    print(f"{len(others)} join a planted copy and another image: {share:.2f} %")
    if args.sheets:
        sheets(every, copies, own, args.sheets / "originals")
        sheets(every, copies, others, args.sheets / "others")
    return int((correlation > 0).mean() < 0.99)


if __name__ == "__main__":
    sys.exit(main())
