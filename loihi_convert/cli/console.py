"""Output for the user: text on stdout, notes on stderr (errors there are ignored), tables, JSON."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from loihi_convert.errors import PlatformError, escape_control, with_flags

if TYPE_CHECKING:
    from rich.console import Console

    from loihi_convert.report.table import Table


class Fact(NamedTuple):
    """A line of an answer: its subject, and a sentence."""

    label: str
    text: str


LABEL_COLUMNS: Final = 10
"""Width of the labels of facts."""


def echo(text: str) -> None:
    """Print ``text`` on stdout and flush, so that errors appear here and not when the interpreter exits."""
    with written():
        print(text, flush=True)


@contextlib.contextmanager
def written() -> Iterator[None]:
    """What is done here writes to stdout; a pipe that its reader has closed, as ``| head`` does, ends the program."""
    try:
        yield
    except OSError as error:
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise PlatformError(
            f"stdout: cannot be written ({error.strerror}); files named above or by -o are complete. Send it elsewhere."
        ) from error


_INTERRUPTED: Final[list[Callable[[], str]]] = [lambda: ""]


def on_interrupt(remaining: Callable[[], str]) -> None:
    """Let ``remaining`` say what an interrupted command leaves and how it goes on; empty: no partial files."""
    _INTERRUPTED.append(remaining)


def interrupted() -> str:
    """Return what the interrupted command leaves."""
    return _INTERRUPTED[-1]() or "no partial files were left"


def say(text: str) -> None:
    """Print sentences on stdout; on a terminal they are wrapped at spaces."""
    if sys.stdout is None or not sys.stdout.isatty():
        echo(text)
        return
    from rich.text import Text

    with _drawn() as console:
        console.print(Text(text))


def log(message: str) -> None:
    """Print ``message`` on stderr, with control characters escaped; a closed stderr is not an error."""
    if sys.stderr is None:
        return
    try:
        print("\n".join(map(escape_control, message.split("\n"))), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log(record.getMessage())


def log_notes() -> None:
    """Print what this package logs, such as that loops are compiled the first time, on stderr."""
    logger = logging.getLogger("loihi_convert")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _OnStderr) for handler in logger.handlers):
        logger.addHandler(_OnStderr())


def say_json(value: dict[str, Any]) -> None:
    """Print ``value`` on stdout as one JSON object."""
    echo(json.dumps(value, indent=2, sort_keys=True))


def say_answer(verdict: str, below: Sequence[str], table: Sequence[str], facts: Sequence[Fact]) -> None:
    """Print an answer on stdout: a sentence, lines below it, a table between empty lines, and facts.

    Control characters are escaped. Sentences are wrapped at the width of the terminal, or at 110 columns. The labels of
    facts are in a separate column.
    """
    from rich.table import Table as Grid
    from rich.text import Text

    # Versions of rich differ in whether a width includes the padding.
    grid = Grid.grid(padding=0)
    grid.add_column(no_wrap=True, min_width=LABEL_COLUMNS + 2)
    grid.add_column()
    for fact in facts:
        grid.add_row(
            Text(f"{fact.label}  ", style="bold yellow" if fact.label == "warning" else "dim"),
            Text(escape_control(fact.text)),
        )
    with _drawn() as console:
        console.print(Text(escape_control(verdict), style="bold"))
        for line in below:
            console.print(Text(escape_control(line)))
        if table:
            console.print()
            for line in table:
                # The terminal itself wraps a table line that is too wide, not at a space.
                console.print(Text(escape_control(line)), no_wrap=True, overflow="ignore", crop=False)
        if facts:
            console.print()
            console.print(grid)


@contextlib.contextmanager
def _drawn() -> Iterator[Console]:
    """Print with `echo` what is printed on a console as wide as the terminal, or 110 columns without one."""
    from rich.console import Console

    # It is None if it is closed.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    # Not to stdout itself: `echo` handles its errors.
    console = Console(
        width=None if is_terminal else 110, highlight=False, file=io.StringIO(), force_terminal=is_terminal or None
    )
    with console.capture() as capture:
        yield console
    echo("\n".join(line.rstrip() for line in capture.get().split("\n")).removesuffix("\n"))


def told_once(facts: Iterable[tuple[str, Fact]], count: int) -> Iterator[Fact]:
    """Yield each of ``facts``, given with the name of its file, once.

    The names of its files precede it, unless it is true of all ``count`` files.
    """
    names_of: dict[Fact, list[str]] = {}
    for name, fact in facts:
        names_of.setdefault(fact, []).append(name)
    for fact, names in names_of.items():
        yield fact if len(names) == count else fact._replace(text=f"{', '.join(names)}: {fact.text}")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Return ``rows`` as indented lines: the columns of the indices ``left`` left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        line = "  ".join(
            text.ljust(width) if index in left else text.rjust(width) for index, (text, width) in enumerate(cells)
        )
        lines.append(f"  {line}".rstrip())
    return lines


def say_tables(tables: Sequence[Table]) -> None:
    """Print ``tables`` on stdout, as wide as the terminal, or 110 columns without one."""
    with _drawn() as console:
        for table in tables:
            console.print(table)


def flagged(text: str, *verbs: str) -> str:
    """Return ``text`` with parameters, in backticks or before its first colon, replaced by the flags of ``verbs``."""
    from loihi_convert.cli import verb_flags

    known = {name: flag for verb in verbs for name, flag in verb_flags([verb]).items()}
    where, colon, rest = text.partition(": ")
    return with_flags(f"{known.get(where, where)}{colon}{rest}", known)


def _silence(stream: TextIO) -> None:
    # The rest of its buffer would be written at exit, and fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
