"""Base of the custom ProcessModels: an error in one ends its process instead of hanging the whole network."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lava.magma.core.model.py.model import PyLoihiProcessModel


class GuardedModel(PyLoihiProcessModel):
    """A ProcessModel whose exceptions are written to the file ``proc_params["failure"]`` and end the process.

    Lava swallows exceptions in a ProcessModel; ``run()`` and ``stop()`` then wait forever. The host watches for ended
    processes.
    """

    def prepare(self) -> None:
        """Prepare the steps; called once, after Lava has set the Vars and ports."""

    def step(self) -> None:
        """Do one time step; ``self.time_step`` counts from 1."""
        raise NotImplementedError

    def start(self) -> None:
        with self._reported():
            self.prepare()
        super().start()

    def run_spk(self) -> None:
        with self._reported():
            self.step()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
            Path(self.proc_params["failure"]).write_text(reason, encoding="utf-8")
            os._exit(1)
