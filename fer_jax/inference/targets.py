"""The command `fer-jax targets`: finished runs and votes in, soft targets out.

A run that was trained on an image has learned its label, so it knows little beyond it.
The runs of five folds (`data.fold` 1 to 5) each leave a fifth of train out; what they
say of that fifth is out of fold, and needs no network: it is in their predictions.
Only that can be weighed against the FER+ votes.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from fer_jax import runs
from fer_jax.compare.calibration import fit_temperature
from fer_jax.compare.predictions import read_file
from fer_jax.compare.results import shortlist
from fer_jax.data import ferplus, load, soft_targets
from fer_jax.data.folds import FOLDS
from fer_jax.data.lazy_images import chunks
from fer_jax.data.soft_targets import SoftTargets
from fer_jax.errors import UserError, run_command
from fer_jax.inference import vote_map
from fer_jax.system.arguments import Parser
from fer_jax.system.console import make_console
from fer_jax.system.files import check_target

_EXAMPLES = """
  % runs/baseline/seed_* --data_root fer2013.csv --to targets.npz
  % runs/fold_*/seed_42 --to targets.npz     out of fold: data.fold 1 to 5
  % runs/fold_*/seed_42 --votes --data_root fer2013.csv --to targets.npz
"""
_VOTES = "the FER+ votes"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (default: the process's own); returns 0."""
    parser = Parser(
        "targets",
        "Write what finished runs and the FER+ votes say of the train images, as soft "
        "targets for another run (data.soft_targets).",
        _EXAMPLES,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders")
    parser.add_argument(
        "--to", type=Path, metavar="FILE.npz", required=True, help="what to write"
    )
    parser.add_argument(
        "--data_root", help="the data; not needed for runs of folds without --votes"
    )
    parser.add_argument(
        "--votes",
        action="store_true",
        help=f"use FER+'s {ferplus.NAME} beside the csv, alone or with runs of folds",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        default=48,
        metavar="N",
        help="data.image_size of the student, for --votes without runs; default: 48",
    )
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    check_target(args.to, "--to", (".npz",))
    if not args.runs and not args.votes:
        raise UserError("there is no teacher; name run folders, or give --votes")
    if args.votes:
        found = with_votes(args.runs, args.data_root, image_size=args.image_size)
    else:
        found = from_runs(args.runs, args.data_root)
    soft_targets.write(args.to, found)
    make_console().print(
        f"written: {args.to}, of {len(found.rows):,} train images by "
        f"{shortlist(found.teachers)}"
    )
    return 0


def from_runs(folders: Sequence[Path], data_root: str | None) -> SoftTargets:
    """The mean of the runs' calibrated probabilities of the train images.

    Each run's are scaled by the temperature that fits its val (Guo et al. 2017).

    Args:
      folders: of finished runs on one data set; either all have `data.fold`, and their
        folds together are all of train, or none has.
      data_root: of the runs' data; not used for folds.

    Raises:
      UserError: a run is unfinished or damaged, they are of different data or classes,
        or folds are missing.
    """
    return _of_runs({folder: _result(folder) for folder in folders}, data_root)


def _of_runs(
    results: Mapping[Path, dict[str, Any]], data_root: str | None
) -> SoftTargets:
    """As `from_runs`, of runs whose results are read."""
    first_folder, first = next(iter(results.items()))
    for folder, result in results.items():
        for key in ("source_fingerprint", "class_names"):
            if result["data"][key] != first["data"][key]:
                raise UserError(
                    f"{folder} and {first_folder} have another {key}; name runs of the "
                    "same data and labels"
                )
    folds = {
        folder: result["config"]["data"]["fold"] for folder, result in results.items()
    }
    if any(folds.values()) and not all(folds.values()):
        raise UserError(
            "some of the runs are of folds and some are not; name runs of one kind"
        )
    if all(folds.values()):
        if missing := sorted({*range(1, FOLDS + 1)} - {*folds.values()}):
            raise UserError(
                f"there is no run with data.fold={', '.join(map(str, missing))}, so "
                "its images would have no target; train the missing folds, too"
            )
        parts = [_of_fold(folder) for folder in results]
    else:
        parts = [_of_train(folder, each, data_root) for folder, each in results.items()]
    rows, probabilities = _mean(parts)
    data = first["data"]
    return SoftTargets(
        fingerprint=data["source_fingerprint"],
        class_names=tuple(data["class_names"]),
        rows=rows,
        probabilities=probabilities,
        teachers=tuple(
            f"{each['name']}/seed_{each['seed']}" for each in results.values()
        ),
    )


def with_votes(
    folders: Sequence[Path], data_root: str | None, *, image_size: int = 48
) -> SoftTargets:
    """What FER+'s votes say of FER2013's labels, alone or together with runs of folds.

    The map from both to the labels is fitted to train (`vote_map`).

    Args:
      folders: as for `from_runs`, of folds; or none.
      data_root: a FER2013 csv, with FER+'s beside it.
      image_size: of the data, if there are no runs that say it.

    Raises:
      UserError: as for `from_runs`, the runs are not of folds, or there are no votes.
    """
    results = {folder: _result(folder) for folder in folders}
    for folder, result in results.items():
        _check_for_votes(folder, result["config"]["data"])
    settings = {"image_size": image_size, "channels": 1}
    for result in results.values():
        settings = {key: result["config"]["data"][key] for key in settings}
    dataset = load(
        data_root,
        **settings,
        skip_bad=any(result["data"]["skipped"] for result in results.values()),
        console=make_console(),
    )
    votes = ferplus.load(dataset)
    if votes is None:
        raise UserError(
            f"--votes needs FER+'s {ferplus.NAME} beside a fer2013.csv, and "
            f"{dataset.path or dataset.description} has none; put it there"
        )
    rows, labels = dataset.splits["train"].rows, dataset.splits["train"].labels
    probabilities: np.ndarray | None = None
    teachers: tuple[str, ...] = ()
    if results:
        teacher = _of_runs(results, None)
        if teacher.fingerprint != dataset.fingerprint:
            raise UserError(
                f"{data_root} is not the data of the runs (fingerprint "
                f"{dataset.fingerprint}, expected {teacher.fingerprint}); name theirs"
            )
        known = np.isin(rows, teacher.rows)
        rows, labels = rows[known], labels[known]
        probabilities, teachers = teacher.probabilities, teacher.teachers
    fitted = vote_map.fitted(votes.counts[rows], labels, probabilities)
    return SoftTargets(
        fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        rows=rows,
        probabilities=fitted.astype(np.float32),
        teachers=(*teachers, _VOTES),
    )


def _check_for_votes(folder: Path, settings: dict[str, Any]) -> None:
    """Raises a `UserError` for a run that cannot be weighed against votes."""
    if not settings["fold"]:
        raise UserError(
            f"{folder} was trained on the images that it would be asked about, so it "
            "is too sure of them to be weighed against votes; name the runs of five "
            "folds (data.fold 1 to 5)"
        )
    if settings["labels"] != "fer2013":
        raise UserError(
            f"{folder} was trained on FER+'s labels ({settings['labels']}), and the "
            "votes are mapped to FER2013's; name runs with data.labels=fer2013"
        )


def _result(folder: Path) -> dict[str, Any]:
    if not runs.is_finished(folder):
        raise UserError(
            f"{folder} holds no finished run (no {runs.RESULT}); name run folders such "
            "as runs/baseline/seed_42"
        )
    return runs.read_result(folder)


def _of_fold(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the fold that a run left out, and its probabilities of them."""
    val = read_file(folder / "predictions_val.npz")
    return val["rows"], _probabilities(val["logits"], val)


def _of_train(
    folder: Path, result: dict[str, Any], data_root: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the images that a run trained on, and its probabilities of them."""
    from fer_jax.inference.from_run import data_of, read_model
    from fer_jax.inference.predictor import Predictor

    if data_root is None and result["data"]["source"] != "embedded":
        raise UserError(
            f"{folder} was trained on {result['data']['description']}; name it with "
            "--data_root, or name the runs of five folds"
        )
    train = data_of(result, data_root).splits["train"]
    predictor = Predictor(read_model(folder))
    logits = np.concatenate([predictor.logits(each) for each in chunks(train.images)])
    return train.rows, scipy.special.softmax(logits, axis=1)


def _probabilities(logits: np.ndarray, val: dict[str, np.ndarray]) -> np.ndarray:
    labelled = val["labels"] >= 0
    scale = fit_temperature(val["logits"][labelled], val["labels"][labelled])
    return scipy.special.softmax(logits.astype(np.float64) / scale, axis=1)


def _mean(
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """All rows, ascending, and the mean of what the parts say of each."""
    rows = np.unique(np.concatenate([own for own, _ in parts]))
    total = np.zeros((len(rows), parts[0][1].shape[1]))
    for own, probabilities in parts:
        total[np.searchsorted(rows, own)] += probabilities
    return rows, (total / total.sum(axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
