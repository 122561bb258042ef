"""A child process that trains one run: what it prints, and how it ends."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

# No progress bars, even if FORCE_COLOR is set: others may write to the same terminal.
NO_BARS = {"TTY_COMPATIBLE": "0"}
_printing = threading.Lock()  # so that no line is torn


class Child:
    """A process whose stderr is copied to ours, line by line.

    With a prefix, its stdout is copied, too, and each line gets the prefix.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        prefix: str = "",
        process_group: int | None = None,
    ):
        """Starts the command; `process_group` is that of `subprocess.Popen`."""
        self.started = time.monotonic()
        self.last_line = ""  # of stderr, empty lines aside
        self.print_error: OSError | None = None
        self._prefix = prefix
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if prefix else None,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            process_group=process_group,
        )
        streams = (self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)
        self._readers = [
            threading.Thread(target=self._copy, args=(pipe, out), daemon=True)
            for pipe, out in streams
            if pipe is not None
        ]
        for reader in self._readers:
            reader.start()

    def outcome(self) -> tuple[int, str]:
        """Returns the exit status and the reason of a process that has ended."""
        for reader in self._readers:
            reader.join(timeout=5)  # a grandchild may hold the pipe open
        return how_it_ended(self.process.wait(), self.last_line)

    def _copy(self, pipe: IO[str], out: IO[str]) -> None:
        for line in pipe:
            if out is sys.stderr:
                self.last_line = line.strip() or self.last_line
            if self._prefix and not line.strip():
                continue
            try:
                with _printing:
                    out.write(f"{self._prefix}{line.rstrip()}\n")
                    out.flush()
            except OSError as error:  # the child must not block on a full pipe
                self.print_error = error


def how_it_ended(code: int, last_line: str) -> tuple[int, str]:
    """Returns the exit status as a shell has it, and the reason in words.

    Args:
      code: from `Popen`; negative if a signal killed the process.
      last_line: what it printed last on stderr, or "".
    """
    said = last_line.strip().removeprefix("error: ")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:  # most real-time signals have no name
            name = f"signal {-code}"
        return 128 - code, said or f"killed by {name}"
    return code, said or f"exit status {code}"
