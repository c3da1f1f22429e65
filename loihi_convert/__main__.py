"""Entry point: turns signals and errors into one line on stderr and an exit code.

A signal that arrives before this module runs, while Python itself starts, gets Python's default treatment: Ctrl-C
prints a traceback.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Final, NoReturn

# `timeout` and batch systems send each signal twice: to the process and to its process group.
_SAME_SIGNAL_SECONDS: Final = 1.0

_COLLECTED: Final = 50_000
"""New objects between two collections of garbage.

Python's 700 or 2,000 let collections take a tenth of a short command: imported modules are many objects, and all stay.
"""


class _Interrupted(KeyboardInterrupt):
    """A signal arrived.

    A plain `KeyboardInterrupt` that passes through ``exec`` makes Python exit later as if killed by SIGINT.
    """


def main() -> NoReturn:
    """Run the command line: the first signal interrupts it so that it can clean up, the second kills it."""
    if sys.platform == "win32":
        print("error: Windows: is not supported. Run loihi-convert on Linux, for example in WSL.", file=sys.stderr)
        sys.exit(4)
    gc.set_threshold(_COLLECTED)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every encoding has the characters of tables.
        sys.stdout.reconfigure(errors="replace")
    came: list[tuple[int, float]] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append((number, time.monotonic()))
            raise _Interrupted
        if time.monotonic() > came[0][1] + _SAME_SIGNAL_SECONDS:
            os._exit(128 + number)

    # Signals that were already ignored, as under nohup, stay ignored.
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, on_signal)
    try:
        from loihi_convert import cli
        from loihi_convert.ground.devices import wait_passively

        wait_passively()
        # On Ctrl-C some versions of typer raise Abort, others return the exit code.
        code = cli.app(standalone_mode=False) or 0
    except BaseException as error:
        # An interrupted library may raise any exception.
        code = 0 if came else _explain(error)
    # A signal during the interpreter's shutdown must not print a traceback.
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    if came:
        code = 128 + came[0][0]
        console = sys.modules.get("loihi_convert.cli.console")
        left = "no partial files were left" if console is None else console.interrupted()
        with contextlib.suppress(OSError):
            os.write(2, f"error: interrupted; {left}.\n".encode())
    sys.exit(code)


def exit_code(work: Callable[[], int | None]) -> int:
    """Call ``work`` and return its exit code; print an error it raises as one sentence and return that exit code."""
    try:
        return work() or 0
    except Exception as error:
        return _explain(error)


def _explain(error: BaseException) -> int:
    """Print one sentence about ``error`` and return its exit code; re-raise it if it is a bug."""
    from loihi_convert.errors import LoihiConvertError, PlatformError, is_lack_of_memory, rendered
    from loihi_convert.ground.dependencies import missing_error, package_of

    if isinstance(error, ImportError) and (package := package_of(error.name)) is not None:
        missing = missing_error((package,), f"cannot be imported ({error})")
        # The command line's own functions are not used here, because they import rich and typer, which may be missing.
        print(f"error: {missing}", file=sys.stderr)
        return missing.exit_code
    import typer

    from loihi_convert import cli
    from loihi_convert.cli.console import log

    if isinstance(error, LoihiConvertError):
        # An error of `run` may advise another export.
        log(f"error: {rendered(error, {**cli.verb_flags(['export']), **cli.verb_flags(sys.argv[1:])})}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 128 + signal.SIGINT
    if is_lack_of_memory(error):
        log("error: out of memory; no partial files were left. Use fewer images, or a smaller CNN.")
        return PlatformError.exit_code
    # Errors of the option parser carry exit code 2; that of a command without words shows its help.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
        else:
            command = getattr(getattr(error, "ctx", None), "command_path", "")
            log(f"error: {_of_the_parser(error.format_message(), command)}")
        return int(error.exit_code)
    raise error


def _of_the_parser(message: str, command: str) -> str:
    """An error of the option parser in one sentence, and where all options of the command are listed."""
    found = re.fullmatch(r"Invalid value for '(.+?)': Input should be (.+?)(, unable to parse .*)?", message)
    sentence = f"{found[1]}: must be {found[2]}" if found else message.rstrip(".")
    return sentence + (f". `{command} -h` lists all options." if command else ".")


if __name__ == "__main__":
    main()
