"""Shows a comparison again whenever a run has finished, failed or begun."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from fer_jax.errors import UserError
from fer_jax.runs.folder import FAILED, RESULT

_INTERVAL_S = 2.0  # between two looks at the folder


def watch(console: Console, runs_dir: Path, draw: Callable[[], None]) -> None:
    """Draws at once and after each change below `runs_dir`, until Ctrl-C.

    A terminal is cleared first. Where nothing can be drawn, as before the first run
    has finished, the reason is shown.

    Raises:
      KeyboardInterrupt: at Ctrl-C.
    """
    noted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True  # Python loses an exception that is raised inside a finalizer
        raise KeyboardInterrupt

    seen: object = None
    before = signal.signal(signal.SIGINT, handle)
    try:
        while not noted:
            if (now := _state(runs_dir)) != seen:
                seen = now
                if console.is_terminal:
                    console.clear()
                try:
                    draw()
                except UserError as error:
                    console.print(Text(f"nothing to show yet: {error}", style="yellow"))
                line = f"{time.strftime('%H:%M:%S')}  watching {runs_dir}; Ctrl-C ends"
                console.print(Text(line, style="dim"))
            time.sleep(_INTERVAL_S)
        raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _state(runs_dir: Path) -> list[tuple[str, int]]:
    """What the output depends on: the runs, their results and their failures."""
    state = [(str(path), 0) for path in runs_dir.glob("*/seed_*")]
    for name in (RESULT, FAILED):
        for path in runs_dir.glob(f"*/seed_*/{name}"):
            with contextlib.suppress(OSError):  # gone by now, as with --force
                state.append((str(path), path.stat().st_mtime_ns))
    return sorted(state)
