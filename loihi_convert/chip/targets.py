"""The targets of an export, a line each. Whatever depends on a target asks for its `Platform`.

Imports only the standard library, as `choices`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from loihi_convert.ground.choices import Target


class Platform(NamedTuple):
    """A target in words, and whether soft reset needs the circuit of stock neurons there.

    The potentials of that circuit (`ir.neuron_model`) wrap, and do not clip, and its layers satisfy `rules.CHIP_RULES`.
    """

    place: str
    is_circuit: bool


TARGETS: Final[Mapping[Target, Platform]] = {
    "lava": Platform("Lava on a CPU", is_circuit=False),
    "loihi2": Platform("Loihi 2", is_circuit=True),
}
