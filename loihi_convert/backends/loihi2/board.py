"""The Loihi 2 board for a run, as named by Lava and SLURM."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

from loihi_convert.errors import PlatformError, UsageError, one_of
from loihi_convert.ground.choices import Generation
from loihi_convert.ground.dependencies import is_extension_installed

GENERATIONS: Final = get_args(Generation)
"""Loihi 2 chips."""

MESSAGE_BITS_OF_A_CONVOLUTION: Final = 16
"""Of the adapter before a convolution, as lava-dl uses it for its graded pixels."""

NO_EXTENSION: Final = "the Lava extension for Loihi, which a board needs, is not installed"
NOT_INSTALLED: Final = (
    "Members of the Intel Neuromorphic Research Community (INRC) get it: intel-ncl.atlassian.net, 'Get started with "
    "the Lava extension for Loihi'; to join, neuromorphic.intel.com or inrc_interest@intel.com. `dry_run` shows what "
    "would run; `backend='sim'` runs the same Processes without a board."
)


def require_extension(lava_python: str | None) -> None:
    """Raise a `PlatformError` if the extension is not installed here. With ``lava_python``, Lava is in another
    interpreter, and only a run can detect a missing extension."""
    if lava_python is None and not is_extension_installed():
        raise PlatformError(NO_EXTENSION, where="loihi2", hint=NOT_INSTALLED)


@dataclass(frozen=True)
class Board:
    """The board to run on.

    Parameters
    ----------
    generation
        One of `GENERATIONS`.
    partition, name
        A SLURM partition, and the name of one board; ``None``: any.
    address
        Network address of a board's host, which is used without SLURM; ``None``: use SLURM.
    """

    generation: str = "N3B3"
    partition: str | None = None
    name: str | None = None
    address: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that Lava's ``use_slurm_host`` or ``use_ethernet_host`` sets for it."""
        if self.address is not None:
            return {"NOSLURM": "1", "NXSDKHOST": self.address, "LOIHI_GEN": self.generation}
        named = {"PARTITION": self.partition, "BOARD": self.name}
        return {"SLURM": "1", "LOIHI_GEN": self.generation, **{key: value for key, value in named.items() if value}}


def chosen_board(
    *,
    partition: str | None = None,
    name: str | None = None,
    generation: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Board:
    """Return the board named by the options or, where they are not given, by PARTITION, BOARD and LOIHI_GEN.

    A board is named by its partition or by its own name, because Lava's ``use_slurm_host`` takes only one of them.
    Without either, and without SLURM, or with NOSLURM, the host in NXSDKHOST is used directly.

    Raises
    ------
    UsageError
        If the generation is unknown, both partition and name are given, or a name contains other characters.
    """
    generation = generation or environment.get("LOIHI_GEN") or "N3B3"
    if generation not in GENERATIONS:
        hint = "Most Loihi 2 chips are N3B3. The default is the value of LOIHI_GEN."
        raise UsageError(f"found {generation}", where="loihi_gen", expected=one_of(GENERATIONS), hint=hint)
    if partition and name:
        expected = "must be one of the two; Lava does not accept both"
        raise UsageError(f"given, and so is `partition` ({partition})", where="board", expected=expected)
    if not partition:
        name = name or environment.get("BOARD") or None
    if not name:
        partition = partition or environment.get("PARTITION") or None
    address = environment.get("NXSDKHOST") or None
    for parameter, value in (("partition", partition), ("board", name), ("NXSDKHOST", address)):
        # These values are written to a shell script.
        if value is not None and not re.fullmatch(r"[\w.:,-]+", value):
            raise UsageError(
                f"found {value!a}", where=parameter, expected="must consist of letters, digits and _ . : , -"
            )
    # In a job of SLURM on the node of a board, nothing more is requested from SLURM; `plan.script` sets NOSLURM there.
    is_in_job = environment.get("NOSLURM", "0") != "0"
    if (partition or name or environment.get("SLURM", "0") != "0") and not is_in_job:
        address = None
    return Board(generation, partition, name, address)
