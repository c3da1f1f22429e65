"""Entry point: turns signals and errors into one line on stderr and an exit code.

A signal that arrives before this module runs, while Python itself starts, gets Python's default treatment: Ctrl-C
prints a traceback.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Final, NoReturn

# `timeout` and batch systems send each signal twice: to the process and to its process group.
_SAME_SIGNAL_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 0.01

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
    _require_unix()
    gc.set_threshold(_COLLECTED)
    came: list[tuple[int, float]] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            # An exception raised in `on_ignored` would be ignored, too. The signal comes again.
            if frame.f_code is on_ignored.__code__:
                return
            frame = frame.f_back
        if not came:
            came.append((number, time.monotonic()))
            raise _Interrupted
        if time.monotonic() > came[0][1] + _SAME_SIGNAL_SECONDS:
            os._exit(128 + number)

    def on_ignored(ignored: sys.UnraisableHookArgs) -> None:
        # Python ignores exceptions raised in a finalizer or a C callback: send the signal again until it raises.
        if isinstance(ignored.exc_value, _Interrupted) and came:
            number, _ = came.pop()
            main_thread = threading.main_thread().ident

            def again() -> None:
                while not came:
                    time.sleep(_AGAIN_SECONDS)
                    if not came and main_thread is not None:
                        signal.pthread_kill(main_thread, number)

            threading.Thread(target=again, daemon=True).start()
        else:
            report_ignored(ignored)

    report_ignored, sys.unraisablehook = sys.unraisablehook, on_ignored
    # Signals that were already ignored, as under nohup, stay ignored.
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, on_signal)
    try:
        from loihi_convert import cli
        from loihi_convert.cli.console import log_notes
        from loihi_convert.ground.threads import wait_passively

        wait_passively()
        log_notes()
        # On Ctrl-C some versions of typer raise Abort, others return the exit code.
        code = cli.app(standalone_mode=False) or 0
    except BaseException as error:
        # An interrupted library may raise any exception.
        code = 0 if came else _explain(error)
    # A signal during the interpreter's shutdown must not print a traceback.
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    sys.unraisablehook = report_ignored
    if came:
        code = 128 + came[0][0]
        console = sys.modules.get("loihi_convert.cli.console")
        left = "no partial files were left" if console is None else console.interrupted()
        with contextlib.suppress(OSError):
            os.write(2, f"error: interrupted; {left}.\n".encode())
    sys.exit(code)


def _require_unix() -> None:
    """End the program on Windows, which lacks signals and modules that this package imports."""
    if sys.platform == "win32":
        from loihi_convert.errors import PlatformError

        error = PlatformError(
            "is not supported", where="Windows", hint="Run loihi-convert on Linux, for example in WSL."
        )
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


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
    if isinstance(error, ValueError) and "binary incompatibility" in str(error):
        hint = (
            "Install them anew: pip install --upgrade --force-reinstall numpy scipy h5py numba scikit-learn matplotlib"
        )
        log(f"error: {PlatformError(f'packages were built for another NumPy ({error})', hint=hint)}")
        return PlatformError.exit_code
    if isinstance(error, OSError) and "--install-completion" in sys.argv:
        log(f"error: {error.filename}: cannot be written ({error.strerror or error}).")
        return PlatformError.exit_code
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
