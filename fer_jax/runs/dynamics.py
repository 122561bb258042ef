"""Training dynamics: how well each epoch of a run learnt each train image.

An image with a wrong label is learnt late, forgotten, or never learnt. `dynamics/` in
the run folder contains

  rows.npy     int32 [N]            row of each image in its source
  labels.npy   int32 [N]            its class
  margins.npy  float16 [epochs, N]  logit of the class minus the largest other logit,
                                    mean over the steps of the epoch with the image
  rivals.npy   int16 [epochs, N]    the class of that other logit, in the last such step

with NaN and -1 if an epoch did not draw an image or was not run. The margins come from
the training steps, on augmented images, so they need no extra pass.
"""

import os
from pathlib import Path

import numpy as np

from fer_jax.runs.folder import DYNAMICS

_MISSING = {"margins": (np.float16, np.nan), "rivals": (np.int16, -1)}


def open_dynamics(
    run_dir: Path, rows: np.ndarray, labels: np.ndarray, epochs: int
) -> None:
    """Creates the files of a run, or keeps those of a resumed run.

    Args:
      run_dir: the run folder.
      rows: int `[N]`, the row of each train image in its source.
      labels: int `[N]`, its class.
      epochs: the largest number of epochs.
    """
    folder = run_dir / DYNAMICS
    folder.mkdir(exist_ok=True)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "labels.npy", labels)
    for name, (dtype, missing) in _MISSING.items():
        path = folder / f"{name}.npy"
        if not _has_shape(path, (epochs, len(rows)), dtype):
            _write_lines(path, epochs, np.full(len(rows), missing, dtype))


def _write_lines(path: Path, count: int, line: np.ndarray) -> None:
    """Writes an .npy file of `count` equal lines with one line in memory."""
    header = {
        "descr": np.lib.format.dtype_to_descr(line.dtype),
        "fortran_order": False,
        "shape": (count, len(line)),
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(count):
            file.write(line.tobytes())


def write_epoch(
    run_dir: Path, epoch: int, margin: np.ndarray, shown: np.ndarray, rival: np.ndarray
) -> None:
    """Writes the line of an epoch in place; a repeated epoch writes the same line.

    Args:
      run_dir: the run folder.
      epoch: from 1.
      margin: float32 `[N]`, sums of margins.
      shown: int32 `[N]`, how often each image was drawn.
      rival: int16 `[N]`, the class of the largest other logit.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # 0 / 0: not drawn
        margins = (margin / shown).astype(np.float16)
    lines = {"margins": margins, "rivals": np.where(shown > 0, rival, np.int16(-1))}
    for name, line in lines.items():
        with (run_dir / DYNAMICS / f"{name}.npy").open("r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek((epoch - 1) * line.nbytes, os.SEEK_CUR)
            file.write(line.tobytes())
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that refers to it


def _has_shape(path: Path, shape: tuple[int, ...], dtype: type) -> bool:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return found.shape == shape and found.dtype == dtype
