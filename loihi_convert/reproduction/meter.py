"""How far a command is, in images times steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from loihi_convert.progress import Progress


class Meter:
    """How far work of several kinds is, in images times steps, for one progress bar.

    Parameters
    ----------
    progress
        Told whenever something is done.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self.total = 0
        self.done = 0

    @contextmanager
    def step(self, units: int) -> Iterator[Progress]:
        """Count ``units``, in proportion to what is reported to the function that is yielded."""
        before = self.done

        def report(done: int, total: int) -> None:
            self.done = before + int(units * done / max(1, total))
            self._progress(min(self.done, self.total), self.total)

        yield report
        report(1, 1)

    @property
    def state(self) -> str:
        """How much is done, and how long the rest will take at that rate."""
        if not self.done or not self.total:
            return "0 %"
        share = min(1.0, self.done / self.total)
        left = (time.monotonic() - self._started) * (1 / share - 1)
        return f"{100 * share:.0f} %, about {left / 60:.0f} min left"
