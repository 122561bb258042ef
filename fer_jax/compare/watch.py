"""Shows a comparison anew whenever a run has finished, failed or begun."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from fer_jax.errors import UserError
from fer_jax.runs.folder import FAILED, RESULT

_LOOK_S = 2.0  # between two looks at the folder


def watch(console: Console, runs_dir: Path, draw: Callable[[], None]) -> None:
    """Draws at once and after each change below `runs_dir`, until Ctrl-C.

    On a terminal the new picture takes the place of the old one. Where nothing can be
    drawn, as before the first run has finished, the reason is shown.

    Raises:
      KeyboardInterrupt: at Ctrl-C.
    """
    seen: object = None
    with _noting_ctrl_c() as asked:
        while not asked:
            if (now := _state(runs_dir)) != seen:
                seen = now
                if console.is_terminal:
                    console.clear()
                try:
                    draw()
                except UserError as error:
                    console.print(Text(f"nothing to show yet: {error}", style="yellow"))
                told = f"{time.strftime('%H:%M:%S')}  watching {runs_dir}; Ctrl-C ends"
                console.print(Text(told, style="dim"))
            time.sleep(_LOOK_S)
        raise KeyboardInterrupt


@contextlib.contextmanager
def _noting_ctrl_c() -> Iterator[list[int]]:
    """Gives a list that is no longer empty after Ctrl-C, which is raised as ever.

    Where it comes while Python runs a clean-up of its own, the exception is lost there.
    """
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _state(runs_dir: Path) -> list[tuple[str, int]]:
    """What a change of the picture would change: runs, results and failures."""
    state = [(str(path), 0) for path in runs_dir.glob("*/seed_*")]
    for name in (RESULT, FAILED):
        for path in runs_dir.glob(f"*/seed_*/{name}"):
            try:
                state.append((str(path), path.stat().st_mtime_ns))
            except OSError:  # gone since, as with --force
                continue
    return sorted(state)
