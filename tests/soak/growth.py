"""Trains for many epochs and measures whether the process grows.

    python tests/soak/growth.py --epochs 200 --from 20

Between the epoch `--from` and the last, as medians over ten epochs, the resident memory
may grow by 5 % and one block, threads by one and open files not at all. A block is what
a step allocates at once: a fragmented heap grows by it now and then in the first
hundreds of epochs, while a leak grows in each. TensorStore's pool begins and ends
threads as it has work, so these may grow by one in every two epochs.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 10  # epochs over which a median is taken
BLOCK_MB = 64
TENSORSTORE = "ts_pool_worker"  # the name of its pool's threads
sys.path.insert(0, str(ROOT))


def measure() -> dict[str, float]:
    """This process's resident memory in MB, its open files, threads and the pool's."""
    status = Path("/proc/self/status").read_text().splitlines()
    numbers = dict(line.split(":", 1) for line in status)
    names = thread_names()
    pool = names.count(TENSORSTORE)
    return {
        "memory_mb": int(numbers["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(names) - pool,
        "pool": pool,
    }


def thread_names() -> list[str]:
    """What this process's threads are called, as the kernel has it."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            names.append((task / "comm").read_text().strip())
    return names


def train(settings: list[str], data_root: str | None) -> list[dict[str, float]]:
    """Trains in a temporary folder; what was measured after each epoch."""
    from fer_jax import train
    from fer_jax.system.console import TrainingBar

    measured, on_epoch = [], TrainingBar.on_epoch

    def noting(bar: TrainingBar, history: list) -> None:
        on_epoch(bar, history)
        if history:
            measured.append(measure())

    TrainingBar.on_epoch = noting
    argv = [str(ROOT / "configs/baseline.yaml"), "--set", "training.patience=0"]
    for item in settings:
        argv += ["--set", item]
    if data_root:
        argv += ["--data_root", data_root]
    try:
        with tempfile.TemporaryDirectory() as runs_dir:
            train.main([*argv, "--runs_dir", runs_dir])
    finally:
        TrainingBar.on_epoch = on_epoch
    return measured


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if nothing grew."""
    parser = argparse.ArgumentParser(description="Measure whether long runs grow.")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--from", dest="first", type=int, default=20)
    parser.add_argument("--image_size", type=int, default=48)
    parser.add_argument("--data_root")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args(argv)
    began = time.monotonic()
    settings = [f"training.epochs={args.epochs}", f"data.image_size={args.image_size}"]
    measured = train([*settings, *args.set], args.data_root)
    minutes = (time.monotonic() - began) / 60
    early, late = (
        {name: statistics.median(each[name] for each in some) for name in measured[0]}
        for some in (
            measured[max(0, args.first - WINDOW) : args.first],
            measured[-WINDOW:],
        )
    )
    print(
        f"{args.epochs} epochs in {minutes:.1f} min, after {args.first} and the last:"
    )
    for name in early:
        growth = 100 * (late[name] - early[name]) / max(early[name], 1)
        print(f"{name:>10} {early[name]:8.1f} {late[name]:8.1f} {growth:+.1f} %")
    grown = late["memory_mb"] > 1.05 * early["memory_mb"] + BLOCK_MB
    grown |= late["files"] > early["files"]
    # Other pools begin and end a thread now and then; what leaks leaks often.
    grown |= late["threads"] > early["threads"] + 1
    grown |= late["pool"] > early["pool"] + (args.epochs - args.first) / 2
    return int(grown)


if __name__ == "__main__":
    raise SystemExit(main())
