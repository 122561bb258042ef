"""The process of a run, as whoever started it sees it."""

import signal

# No bars in what others may write to as well, even where FORCE_COLOR is set.
NO_BARS = {"TTY_COMPATIBLE": "0"}


def how_it_ended(code: int, last: str) -> tuple[int, str]:
    """The exit status as a shell tells it, and why it is that, in words.

    Args:
      code: as `Popen` tells it, less than 0 where a signal killed the process.
      last: the last line on its stderr that was not empty, or "".

    Returns:
      128 + the number of a signal that killed it, or `code`; and the last line without
      "error: ", or else what the code says.
    """
    said = last.strip().removeprefix("error: ")
    if code < 0:
        return 128 - code, said or f"killed by {_name(-code)}"
    return code, said or f"exit status {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have none
        return f"signal {number}"
