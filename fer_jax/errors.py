"""The exception for user errors, and the exit status of a command."""

import errno
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """An error that the user can correct, in one sentence.

    The sentence says what was found, what was expected, where, and what to do.
    Commands print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str):
        """Stores the message as one line of printable text."""
        super().__init__(plain(message))


def plain(text: str) -> str:
    r"""Returns a text in one line, with control characters as \x1b and so on."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


# The exit status if the same command may succeed later: EX_TEMPFAIL of sysexits.h.
LOST = 75


class Lost(UserError):
    """Another process of the run is lost; the run itself did not fail."""


def run_command(main: Callable[[], int]) -> int:
    """Runs `main`; a user error becomes one line on stderr and status 2.

    Returns the exit status: `main`'s own, 2 for a `UserError`, or `LOST` for a `Lost`,
    130 for Ctrl-C, and 141 if the reader of a pipe is gone, as with `| head`.
    """
    try:
        status = main()
        if sys.stdout:  # None if it was closed before the start
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return LOST if isinstance(error, Lost) else 2
    except BrokenPipeError:
        # Python flushes stdout again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:
            raise
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
