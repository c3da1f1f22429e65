"""Options of a backend, validated when created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from loihi_convert.choices import BackendName, LavaLayout, Neuron
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ir.neuron_model import NeuronModel, neuron_model
from loihi_convert.ir.quantized import QuantizedNetwork

if TYPE_CHECKING:
    from loihi_convert.backends.loihi2.board import Board


@dataclass(frozen=True)
class BackendOptions:
    """Options for running files on a backend; all have defaults, and most belong to one backend.

    Parameters
    ----------
    device
        ref: ``"cpu"`` or another torch device, such as ``"cuda"``.
    lava_python
        sim and loihi2: the interpreter with Lava; see `lava_backend.LavaBackend`.
    lava_layout
        sim: see `choices.LavaLayout`; by default ``"processes"``.
    neuron
        See `choices.Neuron`; by default that of the file's target.
    leak
        Whether stock neurons leak: ``du = 0``, the smallest value in Loihi's documents, instead of -1.
    board
        loihi2: where to run; by default what the environment says.
    profile
        loihi2: measure time and energy in an additional run.

    Raises
    ------
    UsageError
        If a value is unknown, or two options contradict each other.
    """

    device: str = "cpu"
    lava_python: str | None = None
    lava_layout: LavaLayout | None = None
    neuron: Neuron | None = None
    leak: bool = False
    board: Board | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("lava_layout", LavaLayout), ("neuron", Neuron)):
            value, known = getattr(self, name), get_args(kind)
            if value is not None and value not in known:
                raise UsageError(f"found {value}", where=name, expected=one_of(known))
        if self.leak and self.neuron == "own":
            raise UsageError(
                "given with `neuron='own'`; only stock neurons leak",
                where="leak",
                expected="must be off unless the neurons are stock",
                hint="Omit `neuron`, or pass `neuron='stock'`.",
            )

    def neuron_model(self, network: QuantizedNetwork) -> NeuronModel:
        """Return the neuron model of ``network`` with these options; see `ir.neuron_model.neuron_model`."""
        return neuron_model(network, self.neuron, leak=self.leak)

    def require_for(self, backend: BackendName) -> None:
        """Raise a `UsageError` if an option is given that ``backend`` does not have."""
        is_python_given = self.lava_python is not None
        for name, is_given, backends, expected in (
            ("lava_python", is_python_given, ("sim", "loihi2"), "is an option of sim and loihi2, which run Lava"),
            ("lava_layout", self.lava_layout is not None, ("sim",), "is an option of sim"),
            ("board", self.board is not None, ("loihi2",), "is an option of loihi2"),
            ("profile", self.profile, ("loihi2",), "is an option of loihi2, whose board has a profiler"),
            ("neuron", self.neuron == "own", ("ref", "sim"), "must be stock on loihi2: a chip has only stock neurons"),
        ):
            if is_given and backend not in backends:
                hint = f"Omit `{name}`, or choose another `backend`."
                raise UsageError(f"given, but the backend is {backend}", where=name, expected=expected, hint=hint)
