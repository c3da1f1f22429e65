"""Base of the custom ProcessModels: an error in one ends its process instead of hanging the whole network."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.type import LavaPyType

from loihi_convert.ground.arrays import Array


class GuardedModel(PyLoihiProcessModel):
    """A ProcessModel whose exceptions are written to the file ``proc_params["failure"]`` and end the process.

    Lava swallows exceptions in a ProcessModel; ``run()`` and ``stop()`` then wait forever. The host watches for ended
    processes.
    """

    def prepare(self) -> None:
        """Prepare the steps; called once, after Lava has set the Vars and ports."""

    def step(self) -> None:
        """Do one time step, by default that of Lava's model after this class; ``self.time_step`` counts from 1."""
        super().run_spk()

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


class GuardedConv(GuardedModel):
    """A model of Conv, with a geometry of int32.

    Lava's models store it as int8, which a long pooled kernel or many groups would overflow; NumPy 2 does not even
    compare 128 channels with int8.
    """

    kernel_size: Array = LavaPyType(np.ndarray, np.int32)
    padding: Array = LavaPyType(np.ndarray, np.int32)
    stride: Array = LavaPyType(np.ndarray, np.int32)
    dilation: Array = LavaPyType(np.ndarray, np.int32)
    groups: Array = LavaPyType(np.ndarray, np.int32)
