"""Backend `loihi2`: the network of stock Processes on a Loihi 2 board, in the same host process as `sim`.

**It has never run on a chip.** What it does there is written against what Intel and others have published of the Lava
extension for Loihi (`lava_hardware.py` names it), and all but that file is what `sim` runs with ``--neuron stock``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from loihi_convert.backends import BackendName
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.loihi2.board import Board

STALL_SECONDS: Final = 1800.0
"""A run without a step for so long is given up: compiling for the chip, and waiting for a board, take minutes."""


class Loihi2Backend(LavaBackend):
    """Runs exported files of target loihi2 on a board.

    The u of every layer is read after every step, so that all of it can be compared with `ref`: slow, and no measure of
    the chip. Its time and energy are what ``profile`` measures, in one more run that nobody interrupts.

    Parameters
    ----------
    board
        Where to run.
    lava_python, leak
        As in `LavaBackend`.
    profile
        Run once more, with Lava's profiler.
    """

    name: BackendName = "loihi2"

    def __init__(
        self, board: Board, *, lava_python: str | None = None, leak: bool = False, profile: bool = False
    ) -> None:
        super().__init__(lava_python=lava_python, neuron="stock", leak=leak, stall_seconds=STALL_SECONDS)
        self._board = board
        self._profile = profile

    @property
    def chip(self) -> dict[str, Any]:
        """The board, and whether to profile."""
        return {"board": asdict(self._board), "profile": self._profile}
