"""Options of a backend, validated when created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from loihi_convert.backends.loihi2.board import Board
from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import BackendName, LavaLayout, Neuron
from loihi_convert.ground.options import BOARD, Flag, declared

if TYPE_CHECKING:
    from loihi_convert.ir.neuron_model import NeuronModel
    from loihi_convert.ir.quantized import QuantizedNetwork


@declared("Lava")
class BackendOptions:
    """Options for running files on a backend; all have defaults, and most belong to one backend.

    Parameters
    ----------
    device
        ref: ``"cpu"`` or another torch device, such as ``"cuda"``.
    lava_python
        Python interpreter with Lava, if not this one. Default: LOIHI_CONVERT_LAVA_PYTHON.

        For sim and loihi2; see `lava_backend.LavaBackend`.
    lava_layout
        Layout on Lava's simulator. processes (default): Lava's own Conv and Dense, one image at a time. layers: one
        custom Process per layer, images in batches; faster.
    neuron
        own: the file's neuron model. stock: emulate it with Lava's LIF, as on the chip; needs a file for target loihi2,
        where it is the default.
    leak
        Stock neurons with du = 0 instead of -1: u decays by 1/4096 in each step.

        0 is the smallest value in Loihi's documents.
    board
        loihi2: where to run; by default what the environment says.
    profile
        Run once more, and measure time and energy with Lava's profiler.

    Raises
    ------
    UsageError
        If a value is unknown, or two options contradict each other.
    """

    device: Annotated[str, Flag(name="")] = "cpu"
    lava_python: Annotated[str | None, Flag("PATH")] = None
    lava_layout: LavaLayout | None = None
    neuron: Neuron | None = None
    leak: bool = False
    board: Annotated[Board | None, Flag(name="")] = None
    profile: Annotated[bool, Flag(panel=BOARD)] = False

    def __post_init__(self) -> None:
        if self.leak and self.neuron == "own":
            found = "given with `neuron='own'`; only stock neurons leak"
            expected = "must be off unless the neurons are stock"
            raise UsageError(found, where="leak", expected=expected, hint="Omit `neuron`, or pass `neuron='stock'`.")

    def neuron_model(self, network: QuantizedNetwork) -> NeuronModel:
        """Return the neuron model of ``network`` with these options; see `ir.neuron_model.neuron_model`."""
        from loihi_convert.ir.neuron_model import neuron_model

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
