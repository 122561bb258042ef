"""Shows a comparison again whenever a run has finished, failed or begun."""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from fer_jax.errors import UserError
from fer_jax.runs.folder import FAILED, RESULT

_INTERVAL_S = 2.0  # between two looks at the folder


def watch(
    console: Console, folders: Sequence[Path], draw: Callable[[], object]
) -> None:
    """Draws at once and after each change below the folders, until Ctrl-C.

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
    places = ", ".join(map(str, folders))
    before = signal.signal(signal.SIGINT, handle)
    try:
        while not noted:
            if (now := _state(folders)) != seen:
                seen = now
                if console.is_terminal:
                    console.clear()
                try:
                    draw()
                except UserError as error:
                    console.print(Text(f"nothing to show yet: {error}", style="yellow"))
                line = f"{time.strftime('%H:%M:%S')}  watching {places}; Ctrl-C ends"
                console.print(Text(line, style="dim"))
            time.sleep(_INTERVAL_S)
        raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _state(folders: Sequence[Path]) -> list[tuple[str, int]]:
    """What the output depends on: the runs, their results and their failures."""
    state = [(str(path), 0) for each in folders for path in each.glob("*/seed_*")]
    for name in (RESULT, FAILED):
        for path in (p for each in folders for p in each.glob(f"*/seed_*/{name}")):
            with contextlib.suppress(OSError):  # gone by now, as with --force
                state.append((str(path), path.stat().st_mtime_ns))
    return sorted(state)
