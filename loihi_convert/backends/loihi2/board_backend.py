"""Backend `loihi2`: the network of stock Processes on a Loihi 2 board, in the same host process as `sim`.

**It has never run on a chip.** The board-specific part is in `hardware.py`, which lists its published sources on the
Lava extension for Loihi. Everything else is the code that `sim` runs with ``--neuron stock``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Final

from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.loihi2.board import chosen_board
from loihi_convert.backends.options import BackendOptions
from loihi_convert.choices import BackendName

STALL_SECONDS: Final = 1800.0
"""Seconds without a step after which a run is ended: compiling for the chip and waiting for a board take minutes."""


class Loihi2Backend(LavaBackend):
    """Runs exported files of target loihi2 on a board.

    The u of every layer is read after every step, so that it can be compared with `ref`. This is slow and does not
    represent the chip's speed. ``profile`` measures time and energy in an additional run without interruptions.

    Parameters
    ----------
    options
        ``board``, by default from the environment; ``profile``, an additional run with Lava's profiler;
        ``lava_python`` and ``leak`` as in `LavaBackend`.
    """

    name: BackendName = "loihi2"

    def __init__(self, options: BackendOptions = BackendOptions()) -> None:
        super().__init__(replace(options, neuron="stock"), stall_seconds=STALL_SECONDS)
        self._board = self.options.board or chosen_board()

    @property
    def chip(self) -> dict[str, Any]:
        """The board, and whether to profile."""
        return {"board": asdict(self._board), "profile": self.options.profile}
