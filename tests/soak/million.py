"""Takes a generated set of a million images from preparing to the audit.

    python tests/soak/million.py --images 1000000 --image_size 96 --steps 20

Images of smooth noise are prepared by the same code as those of any source; every 500
contain one identical and three near copies of earlier ones. Each part runs in a process
of its own and prints its time and peak memory: preparing, opening, random batches with
1, 2, 4 and 8 threads, training steps streamed and with a batch at hand, and the audit
with the share of planted copies found. It fails if a part takes more than `--most_mb`,
or the audit misses more than one of a hundred. `--tenth` first does the same with a
tenth of the images, and fails if the whole takes more than `--grow_mb` above that.
`--keep FOLDER` keeps the prepared copy (8 GB for a million of 96 x 96) for next time.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from own_process import run_part

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
GROUP = 500  # images that are generated together, the first four of them copies
BATCH = 128
PARTS = ("prepare", "open", "read", "train", "audit")


def upsampling(size: int, coarse: int) -> np.ndarray:
    """Linear interpolation of `coarse` values to `size` ones: float32 `[S, G]`."""
    place = np.linspace(0, coarse - 1, size)[:, None]
    return np.maximum(1 - np.abs(place - np.arange(coarse)), 0).astype(np.float32)


def drawn(group: int, size: int) -> np.ndarray:
    """Smooth noise of three scales and a little grain: uint8 `[GROUP, S, S]`.

    zstd takes a tenth off it, off FER2013's photographs nothing.
    """
    rng = np.random.default_rng((0, group))
    grain = rng.integers(0, 8, (GROUP, size, size), np.uint8)
    images = grain.astype(np.float32) + np.float32(124)
    for coarse, spread in ((5, 40), (12, 24), (size // 4, 6)):
        rows = upsampling(size, coarse)
        noise = rng.standard_normal((GROUP, coarse, coarse), np.float32)
        images += rows @ (spread * noise) @ rows.T
    return np.clip(images, 0, 255).astype(np.uint8)


def group_of_images(group: int, size: int) -> np.ndarray:
    """A group whose first four are copies of images of the group before."""
    images = drawn(group, size)
    if group:
        same, mirrored, moved, all_of_it = drawn(group - 1, size)[10:14]
        down = size // 24  # two pixels of 48
        images[0] = same
        images[1] = mirrored[:, ::-1]
        images[2] = np.pad(moved, (down, 0), mode="edge")[:size, :size]
        both = np.pad(all_of_it[:, ::-1], (0, down), mode="edge")[down:, down:]
        images[3] = np.rint(0.8 * both + 20).astype(np.uint8)
    return images


def generated(count: int, size: int) -> Iterator[Any]:
    """All images as a source's reader gives them, a tenth of them for val."""
    from fer_jax.data.records import Found

    for number in range(count):
        if number % GROUP == 0:
            images = group_of_images(number // GROUP, size)
        split = "val" if number % 10 == 9 else "train"
        image = images[number % GROUP, :, :, None]
        yield Found(split, image, number % 7, number, "generated")


def load(args: argparse.Namespace) -> Any:
    """The data set, as any other is loaded, but for where its images come from."""
    from fer_jax import data
    from fer_jax.data.records import Source, digest
    from fer_jax.data.sources import locate as sources

    def read(source, shape, problems, advance):
        return generated(args.images, args.image_size)

    key = digest("million", args.images, args.image_size)
    source = Source("folder", "generated images", key, Path("generated"))
    sources.locate = lambda data_root: source
    sources.read_folder = read
    return data.load(None, image_size=args.image_size, memory_limit=0)


def prepare(args: argparse.Namespace) -> dict[str, float]:
    """Generates the images and writes the copy."""
    started = time.monotonic()
    load(args)
    seconds = time.monotonic() - started
    cache = Path(os.environ["FER_CACHE_DIR"])
    disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return {"images_per_s": args.images / seconds, "disk_mb": disk / 1e6}


def open_again(args: argparse.Namespace) -> dict[str, float]:
    """Opens the copy that is there."""
    started = time.monotonic()
    load(args)
    return {"open_s": time.monotonic() - started}


def read(args: argparse.Namespace) -> dict[str, float]:
    """Batches in training's order, by so many threads, for `--read_s` seconds each."""
    from fer_jax.data import batches as pipeline
    from fer_jax.data import lazy_images as stored_images

    images, found = load(args).splits["train"].images, {}
    for threads in (1, 2, 4, 8):
        stored_images._THREADS = threads
        with _all_cores(threads):
            rate, cpu = _rate(pipeline, images, args.read_s)
        found[f"threads_{threads}"] = rate
        found[f"threads_{threads}_mb_per_s"] = rate * images[:1].nbytes / 1e6
        found[f"threads_{threads}_cpu_us"] = 1e6 * cpu  # which others do not disturb
    return found


@contextlib.contextmanager
def _all_cores(threads: int) -> Iterator[None]:
    """Lets the reader take so many threads, however many cores there are."""
    own = os.sched_getaffinity
    os.sched_getaffinity = lambda pid: range(threads)
    try:
        yield
    finally:
        os.sched_getaffinity = own


def _rate(pipeline: Any, images: Any, seconds: float) -> tuple[float, float]:
    """Images a second, and the seconds of a core that each takes."""
    order = pipeline.batch_order(len(images), batch_size=BATCH, epochs=100, seed=0)
    batches = iter(pipeline.image_batches(order, images))
    with contextlib.closing(batches):
        next(batches)  # the permutation, and what the first read opens
        started, cpu, seen = time.monotonic(), time.process_time(), 0
        while time.monotonic() - started < seconds:
            indices, pixels = next(batches)
            assert pixels.shape == (len(indices), *images.image_shape)
            seen += len(indices)
        return seen / (time.monotonic() - started), (time.process_time() - cpu) / seen


def train(args: argparse.Namespace) -> dict[str, float]:
    """So many steps with images read as they go, and as many of the same batch."""
    import jax

    from fer_jax import config
    from fer_jax.system.compilation_cache import keep_compiled
    from fer_jax.system.memory import keep_memory, return_memory
    from fer_jax.training.setup import build_setup

    keep_memory()
    keep_compiled()
    settings = (
        *(f"data.image_size={args.image_size}", f"training.batch_size={BATCH}"),
        *("training.epochs=1", "data.stream=always"),
    )
    settings = config.load(ROOT / "configs/baseline.yaml", settings)
    parts = build_setup(settings, load(args))
    now, batches = (parts.state, parts.init_metrics()), iter(parts.batches)

    def take(steps: int, drawn: Any) -> tuple[float, float]:
        """Seconds for so many steps, and how many of them went by waiting."""
        nonlocal now
        started, waited = time.monotonic(), 0.0
        for _ in range(steps):
            asked = time.monotonic()
            indices, images = drawn()
            waited += time.monotonic() - asked
            images, indices = jax.device_put((images[None], indices[None]))
            now = parts.train_step(*now, (images, parts.labels), indices)
            jax.block_until_ready(now)
        return time.monotonic() - started, waited

    with contextlib.closing(batches):
        take(2, lambda: next(batches))  # compiles
        return_memory()
        streamed, waited = take(args.steps, lambda: next(batches))
        kept = next(batches)
    at_hand, _ = take(args.steps, lambda: kept)
    return {
        "streamed_images_per_s": args.steps * BATCH / streamed,
        "at_hand_images_per_s": args.steps * BATCH / at_hand,
        "waited_percent": 100 * waited / streamed,
    }


def audit(args: argparse.Namespace) -> dict[str, float]:
    """The audit, and how many of the planted copies it finds."""
    from fer_jax.data.duplicates import audit as audit_lib
    from fer_jax.data.duplicates import candidates
    from fer_jax.data.duplicates import search as duplicates

    candidates._AT_ONCE = args.at_once or candidates._AT_ONCE
    duplicates._HELD = args.at_once or duplicates._HELD
    dataset = load(args)
    started, cpu = time.monotonic(), time.process_time()
    found = audit_lib.audit(dataset)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    copies, known = found.copies, set(map(tuple, found.copies.pairs.tolist()))
    # Places in the audit, where train comes before val, by an image's number.
    place = np.argsort(found.rows, kind="stable")
    starts = np.arange(GROUP, args.images, GROUP)
    same = copies.exact[place[starts]] == copies.exact[place[starts - GROUP + 10]]
    near = [
        tuple(sorted((place[start + at], place[start - GROUP + 10 + at]))) in known
        for start in starts
        for at in (1, 2, 3)
    ]
    return {
        "audit_s": seconds,
        "audit_core_s": cpu,
        "exact_percent": 100 * same.mean(),
        "near_percent": 100 * np.mean(near),
        "near_pairs": len(known),
        "least": copies.least,
    }


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "prepare": prepare,
    "open": open_again,
    "read": read,
    "train": train,
    "audit": audit,
}


def measure_all(args: argparse.Namespace, count: int, folder: Path) -> dict[str, dict]:
    """Every part for so many images, in order."""
    pixels = count * args.image_size**2 / 1e6
    print(f"{count:,} images of {args.image_size}, {pixels:,.0f} MB of pixels")
    cache = folder / f"{count}"
    names = ("image_size", "steps", "read_s", "at_once")
    options = {"images": count} | {name: getattr(args, name) for name in names}
    return {
        part: run_part(__file__, part, options, cache)
        for part in PARTS
        if not args.only or part in args.only
    }


def failures(
    args: argparse.Namespace, whole: dict[str, dict], tenth: dict[str, dict]
) -> list[str]:
    """What is not as it has to be, in words."""
    told = [
        f"{part} took {found['peak_mb']:,.0f} MB, at most {args.most_mb:,.0f} expected"
        for part, found in whole.items()
        # The compiler's memory is not the input's, and is the same for any set.
        if found["peak_mb"] > args.most_mb and part != "train"
    ]
    for part, found in tenth.items():
        grown = whole[part]["peak_mb"] - found["peak_mb"]
        print(f"{part:>8}: {grown:,.0f} MB more for ten times the images")
        if grown > args.grow_mb:
            told.append(f"{part} grew by more than {args.grow_mb:,.0f} MB")
    for word in ("exact", "near") if "audit" in whole else ():
        if (share := whole["audit"][f"{word}_percent"]) < args.least_percent[word]:
            told.append(f"of the planted {word} copies {share:.1f} % were found")
    return told


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if memory stayed bounded and the copies were found."""
    parser = argparse.ArgumentParser(description="Measure a very large data set.")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--read_s", type=float, default=15)
    parser.add_argument("--most_mb", type=float, default=2000)
    parser.add_argument("--tenth", action="store_true")
    parser.add_argument("--grow_mb", type=float, default=1000)
    parser.add_argument("--at_once", type=int, help="images that the audit holds then")
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--part", help="used by the program itself")
    args = parser.parse_args(argv)
    args.least_percent = {"exact": 100.0, "near": 95.0}
    if args.part:
        found = MEASURES[args.part](args)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found | {"peak_mb": peak}))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        tenth = measure_all(args, args.images // 10, folder) if args.tenth else {}
        whole = measure_all(args, args.images, folder)
    told = failures(args, whole, tenth)
    print("\n".join(told) or "all as it has to be")
    return int(bool(told))


if __name__ == "__main__":
    raise SystemExit(main())
