"""A backend runs networks: its interface, its options, and how it is opened by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, get_args

from loihi_convert.backends.loihi2.board import Board
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.choices import BackendName, LavaLayout, Neuron
from loihi_convert.ground.options import BOARD, Flag, declared

if TYPE_CHECKING:
    from typing_extensions import Self

    from loihi_convert.backends.result import RunResult
    from loihi_convert.ground.arrays import Array
    from loihi_convert.ir.graded import GradedNetwork
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


class Backend(ABC):
    """Runs networks; a context manager, because some backends hold processes.

    Parameters
    ----------
    options
        The options it is opened with.

    Attributes
    ----------
    name
        The name by which `open_backend` returns it.
    """

    name: BackendName

    def __init__(self, options: BackendOptions = BackendOptions()) -> None:
        self.options = options

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, NumPy and Lava in the backend's own process, by name; empty before its first run."""
        return {}

    @property
    def layout(self) -> LavaLayout | None:
        """The layout of networks on Lava; ``None`` if it does not use Lava."""
        return None

    @abstractmethod
    def run(
        self,
        network: QuantizedNetwork | GradedNetwork,
        images: Array,
        timesteps: int = 1,
        *,
        trace: bool = False,
        first_image: int = 0,
        is_stream: bool = False,
    ) -> RunResult:
        """Run uint8 ``images``, ``(N, *input_shape)``, through ``network`` for ``timesteps`` steps each.

        ``first_image`` is the index of the first of them in the whole run, if they are a part of it: it counts for
        Poisson input. ``is_stream`` is for graded spikes, as in `backends.reference.run_graded`.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop its processes, if it has any."""
        return


def open_backend(backend: str, options: BackendOptions | None = None) -> Backend:
    """Return the backend called ``backend``, not yet started.

    Raises
    ------
    UsageError
        If the backend is unknown, or an option belongs to another backend.
    """
    known: dict[str, BackendName] = {name: name for name in get_args(BackendName)}
    if backend not in known:
        raise UsageError(f"found {backend}", where="backend", expected=one_of(known))
    options = options or BackendOptions()
    options.require_for(known[backend])
    if backend == "ref":
        from loihi_convert.backends.reference import ReferenceBackend

        return ReferenceBackend(options)
    if backend == "sim":
        from loihi_convert.backends.lava.lava_backend import LavaBackend

        return LavaBackend(options)
    from loihi_convert.backends.lava.lava_backend import Loihi2Backend

    return Loihi2Backend(options)
