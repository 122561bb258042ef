"""Kills runs with SIGKILL at random moments until they end like undisturbed ones.

    python tests/soak/kills.py --kills 60

Three experiments on a tiny data set are hard to resume: the weighted sampler with mixup
and erasing, an early stop, and focal loss with a clipped gradient. Each is trained
undisturbed; then again, killed over and over at a random time or within a step, an
evaluation, the writing of a checkpoint or of results; then all in a batch, which is
killed with or without its current run. The results are compared bit for bit. With
`--tiny` the network is the one of the tests, which compiles at once.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

EXPERIMENTS = {
    "balance_sampler": {
        "training": {"epochs": 6},
        "data": {"weighted_sampler": True},
        "augmentation": {"random_erasing": 0.5},
    },
    "early_stop": {"training": {"epochs": 20, "patience": 3, "lr": 1.0e-9}},
    "loss_focal": {
        "training": {"epochs": 5, "batch_size": 20, "clip_norm": 1.0},
        "loss": {"type": "focal"},
    },
}
# Where a kill is aimed at, and the longest time, in seconds, from there to the kill.
MOMENTS = {
    "clock": 4.0,
    "resume": 0.3,
    "step": 0.2,
    "evaluation": 0.05,
    "checkpoint": 0.3,
    "sums": 0.01,
    "metrics": 0.005,
    "results": 0.05,
}
# The network, and the latest time, in seconds, at which its batch is killed.
DEFAULT, TINY = ("fernet", 25.0), ("tiny", 8.0)


def child(argv: list[str]) -> None:
    """Trains in this process, which kills itself where SOAK_KILL says, if it does."""
    from fer_jax import runs, train
    from fer_jax.system import files
    from fer_jax.training import checkpoints as checkpoint
    from fer_jax.training import loop

    moment, count, delay = json.loads(os.environ["SOAK_KILL"])
    entered = Counter()

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def enter(name: str) -> None:
        entered[name] += 1
        if (name, entered[name]) == (moment, count):
            threading.Timer(delay, kill).start()

    def watched(name: str, function):
        def call(*args, **kwargs):
            enter(name)
            return function(*args, **kwargs)

        return call

    for owner, function, name in (
        (loop, "resume", "resume"),
        (loop, "_train_epoch", "step"),
        (loop, "score_val", "evaluation"),
        (checkpoint.Checkpoints, "save", "checkpoint"),
        (checkpoint, "write_text", "sums"),
        (files, "write_jsonl", "metrics"),
        (runs, "write_predictions", "results"),
        (files, "write_json", "results"),
    ):
        setattr(owner, function, watched(name, getattr(owner, function)))
    enter("clock")
    raise SystemExit(train.main(argv))


def prepare(folder: Path, names: Sequence[str], arch: str) -> list[str]:
    """Writes the data and the configs; returns the options of every command."""
    import yaml
    from conftest import SIDE, write_tiny_csv

    csv = write_tiny_csv(folder / "fer2013.csv")
    configs = folder / "configs"
    configs.mkdir()
    base = yaml.safe_load((ROOT / "configs/baseline.yaml").read_text())
    base["data"]["image_size"] = SIDE
    base["model"]["arch"] = arch
    base["training"] |= {"batch_size": 32, "eval_batch_size": 25, "lr": 3e-3}
    (configs / "base.yml").write_text(yaml.safe_dump(base))
    for name in names:
        change = EXPERIMENTS[name]
        told = {"extends": "base.yml", "name": name, "description": "?"}
        (configs / f"{name}.yaml").write_text(yaml.safe_dump(told | change))
    return ["--data_root", str(csv)]


def run(command: list[str], kill: tuple[str, int, float]) -> int:
    """Runs a command to its end, or to its death."""
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"SOAK_KILL": json.dumps(kill)},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return done.returncode


def descendants(pid: int) -> list[int]:
    """The processes below one."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for number in map(int, (task / "children").read_text().split()):
                found += [number, *descendants(number)]
    return found


def killed_batch(command: list[str], after: float, whom: str) -> bool:
    """Starts a batch and kills it, or its run, or both; whether it came to that."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, *command], **quiet) as process:
        try:
            process.wait(after)
            return False
        except subprocess.TimeoutExpired:
            pass
        victims = [process.pid] if whom != "run" else []
        victims += descendants(process.pid) if whom != "batch" else []
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A batch goes on after the death of a run, and ends with a failure.
        process.wait()
        return bool(victims)


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if all runs ended alike."""
    parser = argparse.ArgumentParser(description="Kill trainings at random moments.")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(EXPERIMENTS), action="append")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(argv)
    rng, began = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {
            "FER_CACHE_DIR": str(folder / "data"),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/child")]),
        }
        names = args.only or list(EXPERIMENTS)
        network = TINY if args.tiny else DEFAULT
        told = soak(folder, args.kills, rng, names, network)
    minutes = (time.monotonic() - began) / 60
    same = told.pop("runs compared")
    print(f"{sum(told.values())} kills in {minutes:.1f} min: {dict(told)}")
    print(f"{same} runs ended like their undisturbed twins, bit for bit")
    return 0


def soak(
    folder: Path,
    kills: int,
    rng: random.Random,
    names: Sequence[str],
    network: tuple[str, float],
) -> Counter:
    """Trains undisturbed, disturbed, and in a disturbed batch; compares."""
    from same_run import assert_same_run

    arch, batch_s = network
    options, told = prepare(folder, names, arch), Counter()
    csv = options[1]

    def training(name: str, runs_dir: str) -> list[str]:
        config = str(folder / f"configs/{name}.yaml")
        return [
            __file__,
            "child",
            config,
            *options,
            "--runs_dir",
            str(folder / runs_dir),
        ]

    def check(name: str, runs_dir: str) -> None:
        ours, twin = (folder / each / name / "seed_42" for each in (runs_dir, "twins"))
        assert_same_run(ours, twin, csv)
        told["runs compared"] += 1
        shutil.rmtree(ours)

    for name in names:
        run(training(name, "twins"), ("", 0, 0.0))
    done = 0
    for number, name in enumerate(names):
        while done < kills * 3 // 4 * (number + 1) // len(names):
            moment, longest = rng.choice(list(MOMENTS.items()))
            aim = (moment, rng.choice((1, 1, 2)), rng.uniform(0, longest))
            if run(training(name, "killed"), aim) == 0:  # it ended before; once more
                check(name, "killed")
                continue
            done += 1
            told[moment] += 1
            print(f"killed {name}: {aim}", flush=True)
        run(training(name, "killed"), ("", 0, 0.0))
        check(name, "killed")
    batch = [str(ROOT / "bin/run_batch"), "--configs", str(folder / "configs"), "--yes"]
    batch += [*options, "--runs_dir", str(folder / "batch")]
    while done < kills:
        whom, after = rng.choice(("batch", "run", "both")), rng.uniform(3, batch_s)
        if killed_batch(batch, after, whom):
            done += 1
            told[f"in batch: {whom}"] += 1
            print(f"killed in batch after {after:.1f} s: {whom}", flush=True)
        elif done < kills:  # it ended before; once more
            for name in names:
                check(name, "batch")
    run(batch, ("", 0, 0.0))
    for name in names:
        check(name, "batch")
    return told


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
    raise SystemExit(main())
