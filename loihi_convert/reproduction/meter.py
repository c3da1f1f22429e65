"""Progress of a command, in images times steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from loihi_convert.progress import Progress


class Meter:
    """Progress of several kinds of work, in images times steps, for one progress bar.

    Parameters
    ----------
    progress
        Called after each piece of work.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self.total = 0
        self.done = 0

    @contextmanager
    def step(self, units: int) -> Iterator[Progress]:
        """Count ``units`` in proportion to the progress that the yielded function receives."""
        before = self.done

        def report(done: int, total: int) -> None:
            self.done = before + int(units * done / max(1, total))
            self._progress(min(self.done, self.total), self.total)

        yield report
        report(1, 1)

    @property
    def state(self) -> str:
        """Return how much is done, and the remaining time at the current rate."""
        if not self.done or not self.total:
            return "0 %"
        share = min(1.0, self.done / self.total)
        left = (time.monotonic() - self._started) * (1 / share - 1)
        return f"{100 * share:.0f} %, about {left / 60:.0f} min left"
