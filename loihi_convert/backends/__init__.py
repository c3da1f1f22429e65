"""Where an exported file runs: one interface, interchangeable implementations.

Every backend takes the *file*, so what is tested is what is shipped, and gives back the same integers, bit for bit.

==========  ======================  ==================================================================
name        implementation          what it is
==========  ======================  ==================================================================
``ref``     `backends.reference`    exact integers in torch, batched, fast
``sim``     `backends.lava.lava_backend`         Lava's CPU simulator in a process of its own
``loihi2``  `backends.loihi2.board_backend`       a Loihi 2 board; never tried on one
==========  ======================  ==================================================================
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, get_args

from loihi_convert.arrays import Array
from loihi_convert.backends.result import RunResult
from loihi_convert.choices import BackendName as BackendName
from loihi_convert.choices import Layout as Layout
from loihi_convert.choices import Neuron as Neuron
from loihi_convert.errors import UsageError
from loihi_convert.progress import Progress, no_progress

if TYPE_CHECKING:
    from loihi_convert.backends.loihi2.board import Board


class Backend(Protocol):
    """Runs exported files; a context manager, because some backends hold processes."""

    @property
    def name(self) -> BackendName:
        """The name by which `open_backend` gives it."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Versions of what it runs on, by name, where that is a process of its own; known once it has run."""
        ...

    @property
    def layout(self) -> Layout | None:
        """How it lays out networks on Lava; ``None`` where there is no Lava."""
        ...

    @property
    def neuron(self) -> Neuron | None:
        """What the neurons are, as `open_backend` was told; ``None``: what each file is for."""
        ...

    @property
    def leak(self) -> bool:
        """Whether stock neurons leak."""
        ...

    def run(
        self, path: Path, images: Array, timesteps: int, *, trace: bool = False, progress: Progress = no_progress
    ) -> RunResult:
        """Run ``images`` (uint8 ``(N, C, H, W)``) for ``timesteps`` steps each through the network in ``path``."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def open_backend(
    name: str,
    *,
    device: str = "cpu",
    lava_python: str | None = None,
    lava_layout: str | None = None,
    neuron: str | None = None,
    leak: bool = False,
    board: Board | None = None,
    profile: bool = False,
) -> Backend:
    """Return the backend called ``name``, not yet started.

    Parameters
    ----------
    name
        ``"ref"``, ``"sim"`` or ``"loihi2"``.
    device
        For ``ref``: ``"cpu"``, or another one of torch's, as ``"cuda"``.
    lava_python
        For ``sim`` and ``loihi2``: the interpreter that has Lava, see `lava_backend.LavaBackend`.
    lava_layout
        For ``sim``: ``"processes"`` (default) or ``"layers"``, see `Layout`.
    neuron
        ``"own"`` or ``"stock"``, see `Neuron`; by default ``stock`` for files of target ``loihi2``, ``own`` for others.
    leak
        Stock neurons have ``du = 0``, the least that Loihi's documents allow, instead of -1: their u loses a 4096th of
        itself in each step.
    board, profile
        For ``loihi2``: where to run (by default what the environment says), and whether to measure time and energy.

    Raises
    ------
    UsageError
        If there is no such backend, layout or neuron, or a backend is given what is another's.
    """
    neurons: dict[str, Neuron] = {known: known for known in get_args(Neuron)}
    if neuron is not None and neuron not in neurons:
        raise UsageError(f"--neuron {neuron}: no such neuron; allowed are {', '.join(neurons)}.")
    chosen = None if neuron is None else neurons[neuron]
    if name != "loihi2" and (board is not None or profile):
        raise UsageError(f"--backend {name}: only loihi2 runs on a board, and has a profiler.")
    if name == "ref":
        if lava_python is not None:
            raise UsageError(f"--lava-python {lava_python}: `--backend ref` does not run Lava.")
        if lava_layout is not None:
            raise UsageError(f"--lava-layout {lava_layout}: only `--backend sim` runs Lava.")
        from loihi_convert.backends.reference import ReferenceBackend

        return ReferenceBackend(device=device, neuron=chosen, leak=leak)
    if name == "sim":
        from loihi_convert.backends.lava.lava_backend import LavaBackend

        layouts = {layout: layout for layout in get_args(Layout)}
        if lava_layout is not None and lava_layout not in layouts:
            raise UsageError(f"--lava-layout {lava_layout}: no such layout; allowed are {', '.join(layouts)}.")
        layout = None if lava_layout is None else layouts[lava_layout]
        return LavaBackend(lava_python=lava_python, layout=layout, neuron=chosen, leak=leak)
    if name == "loihi2":
        if chosen == "own" or lava_layout is not None:
            raise UsageError("--backend loihi2: a chip has stock neurons only; leave out --neuron and --lava-layout.")
        from loihi_convert.backends.loihi2.board import chosen_board
        from loihi_convert.backends.loihi2.board_backend import Loihi2Backend

        return Loihi2Backend(board or chosen_board(), lava_python=lava_python, leak=leak, profile=profile)
    raise UsageError(f"--backend {name}: no such backend; allowed are {', '.join(get_args(BackendName))}.")
