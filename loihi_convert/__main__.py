"""The entry: signals and errors become one line on stderr and an exit code."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from loihi_convert import cli
from loihi_convert.console import note
from loihi_convert.errors import LoihiConvertError, PlatformError

_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LACK_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "failed to map segment")


def main() -> NoReturn:
    """Run the command line; errors of ours are one sentence on stderr and their exit code, never a traceback."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    # Under nohup, or behind a script's `&`, some are ignored, and stay so.
    caught = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, interrupt)
    try:
        # Some versions of typer raise Abort on Ctrl-C, some return the exit code.
        code = cli.app(standalone_mode=False) or 0
    except BaseException as error:
        # A library that is interrupted while it is imported raises what it likes.
        code = _INTERRUPTED if received else _explain(error)
    if code == _INTERRUPTED:
        number = signal.Signals(received[0]) if received else signal.SIGINT
        code = 128 + number
        cause = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        note(f"error: {cause}; nothing half-written is left.")
    # From here on a signal ends the process without a traceback from the interpreter's exit.
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    sys.exit(code)


def _explain(error: BaseException) -> int:
    """Tell the user about ``error`` in one sentence and return its exit code; raise it if it is a bug."""
    if isinstance(error, LoihiConvertError):
        note(f"error: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _INTERRUPTED
    if _is_lack_of_memory(error):
        note("error: the memory is not enough for this; nothing half-written is left. Free some, or take fewer images.")
        return PlatformError.exit_code
    # Complaints of the option parser know how to show themselves and carry exit code 2.
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return int(error.exit_code)
    raise error


def _is_lack_of_memory(error: BaseException) -> bool:
    # torch raises RuntimeError; the loader of shared libraries has two words for it.
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _LACK_OF_MEMORY)


if __name__ == "__main__":
    main()
