"""Trains on a generated folder of images, streamed and resident, and measures both.

    python tests/soak/stream.py --images 3000 --image_size 224 --steps 6

Each part runs in a process of its own and prints its peak memory: preparing the folder,
reading all of it in random batches, and a short epoch of either kind. It fails if
preparing or reading takes more than `--most_mb` above a process that reads a tenth.
"""

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from own_process import run_part
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
BATCH = 32
CLASSES = ("angry", "happy", "neutral")


def generate(root: Path, count: int, size: int) -> None:
    """Writes JPEG images of coarse noise, a tenth of them to val."""
    rng = np.random.default_rng(0)
    for number in range(count):
        split = "val" if number % 10 == 0 else "train"
        folder = root / split / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR)
        image.save(folder / f"{number:06}.jpg", quality=90)


def _load(args: argparse.Namespace, stream: str) -> Any:
    from fer_jax import data

    return data.load(
        args.root,
        image_size=args.image_size,
        channels=3,
        memory_limit={"always": 0, "never": math.inf}[stream],
    )


def _read(args: argparse.Namespace) -> dict[str, float]:
    """All batches of an epoch or two, as training draws them, without training."""
    from fer_jax.data import batches as pipeline

    images = _load(args, "always").splits["train"].images
    order = pipeline.batch_order(len(images), batch_size=BATCH, epochs=2, seed=0)
    batches = iter(pipeline.image_batches(order, images))
    started, seen = time.monotonic(), 0
    for indices, pixels in batches:
        assert pixels.shape == (len(indices), *images.image_shape)
        seen += len(indices)
    return {"images_per_s": seen / (time.monotonic() - started)}


def _train(args: argparse.Namespace, stream: str) -> dict[str, float]:
    """So many steps of one epoch, the first of which compiles and does not count."""
    import jax

    from fer_jax import config
    from fer_jax.system.memory import keep_memory
    from fer_jax.training.setup import build_setup

    keep_memory()
    settings = (
        *(f"data.image_size={args.image_size}", "data.channels=3"),
        *(f"training.batch_size={BATCH}", "training.epochs=1"),
    )
    settings = config.load(ROOT / "configs/baseline.yaml", settings)
    parts = build_setup(settings, _load(args, stream))
    state, sums = parts.state, parts.init_metrics()
    batches, images = iter(parts.batches), parts.images["train"]
    for step in range(args.steps + 1):
        if step == 1:
            jax.block_until_ready(state)
            started = time.monotonic()
        drawn = jax.device_put(jax.tree.map(lambda each: each[None], next(batches)))
        indices, images = drawn if stream == "always" else (drawn, images)
        arrays = images, parts.labels
        state, sums = parts.train_step(state, sums, arrays, indices)
    loss = float(sums.loss)
    seconds = time.monotonic() - started
    batches.close()
    return {"images_per_s": args.steps * BATCH / seconds, "loss": loss / (step + 1)}


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One part, in this process: its figures and its peak memory in MB."""
    started = time.monotonic()
    if args.part == "prepare":
        found = {"images": len(_load(args, "always").splits["train"].images)}
    elif args.part == "read":
        found = _read(args)
    else:
        found = _train(args, {"streamed": "always", "resident": "never"}[args.part])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found | {"seconds": time.monotonic() - started, "peak_mb": peak}


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if memory stayed bounded and the losses agree."""
    parser = argparse.ArgumentParser(description="Measure streaming from disk.")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--most_mb", type=float, default=400)
    parser.add_argument("--part", help="used by the program itself")
    parser.add_argument("--root", help="used by the program itself")
    args = parser.parse_args(argv)
    if args.part:
        print(json.dumps(measure(args)))
        return 0
    peaks, losses = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("tenth", args.images // 10), ("whole", args.images)):
            root, cache = Path(folder) / name, Path(folder) / f"{name}_cache"
            generate(root, count, args.image_size)
            pixels = count * args.image_size**2 * 3 / 1e6
            print(f"{count:,} images of {args.image_size}, {pixels:,.0f} MB of pixels")
            options = {"root": root, "image_size": args.image_size, "steps": args.steps}
            for part in ("prepare", "read"):
                found = run_part(__file__, part, options, cache)
                peaks[name, part] = found["peak_mb"]
        for part in ("streamed", "resident") if args.steps else ():
            losses[part] = run_part(__file__, part, options, cache)["loss"]
    grown = {
        part: peaks["whole", part] - peaks["tenth", part]
        for part in ("prepare", "read")
    }
    print("more memory for ten times the images, MB:", grown)
    agree = np.allclose(*losses.values(), rtol=1e-4) if losses else True
    return int(max(grown.values()) > args.most_mb or not agree)


if __name__ == "__main__":
    raise SystemExit(main())
