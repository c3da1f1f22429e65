"""How long work reports how far it is: one callable, and a bar on stderr that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` with 0 <= done <= total, in whatever unit the work counts."""

ProgressFactory = Callable[[str], AbstractContextManager[Progress]]
"""Opens a `Progress` for one stage of a longer flow, given its name: `progress_bar` or `no_progress_bar`."""


def no_progress(done: int, total: int) -> None:
    """Report to nobody: the default of every long-running function."""


@contextmanager
def no_progress_bar(description: str) -> Iterator[Progress]:
    """Report to nobody."""
    yield no_progress


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """Show a progress bar on stderr; where stderr is no terminal, show nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as display:
        task = display.add_task(description, total=None)

        def update(done: int, total: int) -> None:
            display.update(task, completed=done, total=total)

        yield update
