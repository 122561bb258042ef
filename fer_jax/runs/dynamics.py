"""Training dynamics: what each epoch of a run said of each training image.

A label that fights what the network learns from all the others shows in how the image
is learnt: late, not for good, or never. `dynamics/` in the run folder holds

  rows.npy     int32 [N]            each image's place in its source
  labels.npy   int32 [N]            its class
  margins.npy  float16 [epochs, N]  the class's logit less the largest other one, the
                                    mean over the times that the epoch showed the image
  rivals.npy   int16 [epochs, N]    that other class, when the image was last shown

with NaN and -1 where an epoch did not show an image, or was not run. The margins are
those of training itself, on augmented images, so they cost no pass of their own.
"""

import os
from pathlib import Path

import numpy as np

from fer_jax.runs.folder import DYNAMICS

_MISSING = {"margins": (np.float16, np.nan), "rivals": (np.int16, -1)}


def open_dynamics(
    run_dir: Path, rows: np.ndarray, labels: np.ndarray, epochs: int
) -> None:
    """Makes the files of a run, or leaves those that a resumed run has.

    Args:
      run_dir: the run folder.
      rows: int `[N]`, each training image's place in its source.
      labels: int `[N]`, its class.
      epochs: how many the run may take.
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
    """As `np.save` of so many equal lines, of which only one is in memory."""
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
    """Writes an epoch's line into the files, in place: a repeated one is the same.

    Args:
      run_dir: the run folder.
      epoch: from 1.
      margin: float32 `[N]`, the sums of the margins.
      shown: int32 `[N]`, how often each image was shown.
      rival: int16 `[N]`.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # 0 / 0: it was not shown
        margins = (margin / shown).astype(np.float16)
    lines = {"margins": margins, "rivals": np.where(shown > 0, rival, np.int16(-1))}
    for name, line in lines.items():
        with (run_dir / DYNAMICS / f"{name}.npy").open("r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek((epoch - 1) * line.nbytes, os.SEEK_CUR)
            file.write(line.tobytes())
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that says it is there


def _has_shape(path: Path, shape: tuple[int, ...], dtype: type) -> bool:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return found.shape == shape and found.dtype == dtype
