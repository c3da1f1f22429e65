"""The entry: signals and errors become one line on stderr and an exit code.

A signal before the first line here, while Python itself starts, ends as Python has it: Ctrl-C with a traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 128 + signal.SIGINT
_RETRY_SECONDS = 0.1
_PATIENCE_SECONDS = 3.0
_LACK_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "failed to map segment")


def main() -> NoReturn:
    """Run the command line; errors of ours are one sentence on stderr and their exit code, never a traceback."""
    # Under nohup, or behind a script's `&`, some are ignored, and stay so.
    caught = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, _end)
    from loihi_convert import cli
    from loihi_convert.cli.console import log

    interruption = _Interruption()
    for number in (*caught, signal.SIGALRM):
        signal.signal(number, interruption.on_signal)
    sys.unraisablehook = interruption.on_unraisable
    try:
        # Some versions of typer raise Abort on Ctrl-C, some return the exit code.
        code = cli.app(standalone_mode=False) or 0
    except BaseException as error:
        # A library that is interrupted raises what it likes.
        code = _INTERRUPTED if interruption.number else _explain(error)
    # From here on a signal ends the process without a traceback from the interpreter's exit.
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    if code == _INTERRUPTED:
        code = 128 + (interruption.number or signal.SIGINT)
        log(_farewell(code - 128))
    sys.exit(code)


class _Ended(KeyboardInterrupt):
    """A signal came. Where a plain `KeyboardInterrupt` leaves an ``exec``, Python later exits as if by SIGINT."""


class _Interruption:
    """Raises `_Ended` in what runs when a signal comes, once, so that it can clean up in peace.

    Not amid an import: torch's start-up in C++ ends in abort() where Python code that it calls raises. Nor does it help
    where Python only reports an exception and goes on, as in __del__. In both cases it is tried again soon. After some
    seconds the next signal raises in any case: an import may be the user's own code, and cleaning up may hang.

    Attributes
    ----------
    number
        The first signal that came; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._came_at = 0.0
        self._has_raised = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._came_at = number, time.monotonic()
        is_patient = time.monotonic() < self._came_at + _PATIENCE_SECONDS
        if is_patient and self._has_raised:
            return
        importer = _importer(frame)
        if importer == "loihi_convert.cli":
            _end(self.number, frame)
        if is_patient and importer is not None:
            signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)
            return
        self._has_raised = True
        raise _Ended

    def on_unraisable(self, report: sys.UnraisableHookArgs) -> None:
        if isinstance(report.exc_value, _Ended):
            self._has_raised = False
            signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)
        else:
            sys.__unraisablehook__(report)


def _importer(frame: FrameType | None) -> str | None:
    """Return the module whose import statement, the outermost one, is being carried out in ``frame``, if any is."""
    importer, is_import = None, False
    while frame is not None:
        was_import, is_import = is_import, frame.f_code.co_filename.startswith("<frozen importlib")
        if was_import and not is_import:
            importer = frame.f_globals.get("__name__")
        frame = frame.f_back
    return importer


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End at once. So it can where `cli` imports: it never does while something is open that must be cleaned up."""
    with contextlib.suppress(OSError):
        os.write(2, f"{_farewell(number)}\n".encode())
    os._exit(128 + number)


def _farewell(number: int) -> str:
    cause = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return f"error: {cause}; nothing half-written is left."


def _explain(error: BaseException) -> int:
    """Tell the user about ``error`` in one sentence and return its exit code; raise it if it is a bug."""
    import typer

    from loihi_convert.cli.console import log
    from loihi_convert.errors import LoihiConvertError, PlatformError

    if isinstance(error, LoihiConvertError):
        log(f"error: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _INTERRUPTED
    if _is_lack_of_memory(error):
        log("error: the memory is not enough for this; nothing half-written is left. Free some, or take fewer images.")
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
