"""Progress of long computations, and its display on stderr, without an argument of every function between them.

A loop takes `current_progress` before it begins, and calls it. A function of several such loops gives each its share of
the whole with `progress_part`, or leaves it out with `quiet`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Final

from loihi_convert.errors import escape_control

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` with 0 <= done <= total, in any unit."""

_CURRENT: Final = ContextVar[Progress | None]("progress", default=None)

FIRST_SECONDS: Final = 5.0
"""Seconds until the first line where stderr is not a terminal."""

LINE_SECONDS: Final = 30.0
"""Seconds between two lines."""

OTHER_COLUMNS: Final = 46
"""Columns that a bar, its counts and its clocks take beside the description."""


def current_progress() -> Progress:
    """Return the function to call with the progress of this computation; without a bar it does nothing."""
    return _CURRENT.get() or _ignore


@contextmanager
def progress_to(progress: Progress) -> Iterator[None]:
    """Call ``progress`` with the progress of what is computed here, instead of showing a bar."""
    before = _CURRENT.set(progress)
    try:
        yield
    finally:
        _CURRENT.reset(before)


def quiet() -> AbstractContextManager[None]:
    """Show no progress of what is computed here: that of the whole work is shown."""
    return progress_to(_ignore)


def progress_part(index: int, count: int) -> AbstractContextManager[None]:
    """What is computed here is part ``index`` of ``count`` parts of the same size."""
    whole = current_progress()
    return progress_to(lambda done, total: whole(index * total + done, count * total))


def _ignore(done: int, total: int) -> None:
    pass


@contextmanager
def progress_bar(description: str) -> Iterator[None]:
    """Show the progress of what is computed here on stderr: a bar, removed at the end; without a terminal, see
    `progress_lines`.

    Within another one it shows nothing.
    """
    if _CURRENT.get() is not None:
        with quiet():
            yield
        return
    with _shown(description) as progress, progress_to(progress):
        yield


@contextmanager
def _shown(description: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield progress_lines(description)
        return
    # The bar uses the width that the other columns leave, so that times are not truncated at 80 columns.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    name = Text(escape_control(description))
    name.truncate(max(16, console.width - OTHER_COLUMNS), overflow="ellipsis")
    with Bar(*columns, console=console, transient=True, expand=True) as display:
        task = display.add_task(name.plain, total=None)

        def update(done: int, total: int) -> None:
            display.update(task, completed=done, total=total)

        yield update


def progress_lines(description: str, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Return a `Progress` that writes a line to stderr after `FIRST_SECONDS` and every `LINE_SECONDS`, with the time
    left; shorter work writes none.

    ``clock`` gives the time in seconds.
    """
    started = clock()
    due, name = started + FIRST_SECONDS, escape_control(description)

    def update(done: int, total: int) -> None:
        nonlocal due
        now = clock()
        if now < due:
            return
        due, taken = now + LINE_SECONDS, now - started
        share = f" ({100 * done / total:.0f} %)" if total else ""
        left = f", {taken * (total - done) / done:.0f} s left" if done else ""
        tell(f"{name}: {done:,} of {total:,}{share}, {taken:.0f} s{left}")

    return update


def tell(line: str) -> None:
    """Write a line to stderr; a closed one does not stop the work."""
    # `print` would write to stdout if stderr is None, which it is if it was closed before Python started.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
