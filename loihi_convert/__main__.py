"""The entry: signals and errors become one line on stderr and an exit code.

A signal before the first line here, while Python itself starts, ends as Python has it: Ctrl-C with a traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Final, NoReturn

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and batch systems send a signal twice at once: to the process, and to its group.
_SAME_SIGNAL_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 0.01
_LACK_OF_MEMORY: Final = ("can't allocate memory", "Cannot allocate memory", "failed to map segment")


class _Interrupted(KeyboardInterrupt):
    """A signal came. Where a plain `KeyboardInterrupt` leaves an ``exec``, Python itself later ends as if by SIGINT."""


def main() -> NoReturn:
    """Run the command line; the first signal lets it clean up, the second ends it at once."""
    came: list[tuple[int, float]] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append((number, time.monotonic()))
            raise _Interrupted
        if time.monotonic() > came[0][1] + _SAME_SIGNAL_SECONDS:
            os._exit(128 + number)

    def on_ignored(ignored: sys.UnraisableHookArgs) -> None:
        # Python drops what a finalizer or a callback of C raises. The signal must then come once more.
        if isinstance(ignored.exc_value, _Interrupted) and came:
            again = (threading.main_thread().ident, came.pop()[0])
            threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, again).start()
        else:
            report_ignored(ignored)

    report_ignored, sys.unraisablehook = sys.unraisablehook, on_ignored
    # Signals that are ignored at the start, as under nohup, stay ignored.
    caught = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, on_signal)
    try:
        from loihi_convert import cli
        from loihi_convert.threads import wait_passively

        wait_passively()
        # Some versions of typer raise Abort on Ctrl-C, some return the exit code.
        code = cli.app(standalone_mode=False) or 0
    except BaseException as error:
        # A library that is interrupted raises what it likes.
        code = 0 if came else _explain(error)
    # From here on a signal ends the process without a traceback from the interpreter's exit.
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    sys.unraisablehook = report_ignored
    if came:
        code = 128 + came[0][0]
        with contextlib.suppress(OSError):
            os.write(2, b"error: interrupted; no partial files were left.\n")
    sys.exit(code)


def exit_code(work: Callable[[], int | None]) -> int:
    """Do ``work`` and return its exit code, or that of the error it raises, which becomes a sentence on stderr."""
    try:
        return work() or 0
    except Exception as error:
        return _explain(error)


def _explain(error: BaseException) -> int:
    """Print one sentence about ``error`` and return its exit code; raise it if it is a bug."""
    import typer

    from loihi_convert import cli
    from loihi_convert.cli.console import log
    from loihi_convert.errors import LoihiConvertError, PlatformError, rendered

    if isinstance(error, LoihiConvertError):
        log(f"error: {rendered(error, cli.flags(sys.argv[1:]))}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 128 + signal.SIGINT
    if _is_lack_of_memory(error):
        log("error: out of memory; no partial files were left. Use fewer images.")
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
