"""Backends that run exported files: one interface, interchangeable implementations.

Every backend returns the same integers, bit for bit. In `run`, each reads the exported *file*, so that the shipped file
is tested.

==========  =================================  =========================================
name        implementation                     what it is
==========  =================================  =========================================
``ref``     `backends.reference`               exact integers in torch, batched, fast
``sim``     `backends.lava.lava_backend`       Lava's CPU simulator in its own process
``loihi2``  `backends.lava.lava_backend`       a Loihi 2 board; never tested on one
==========  =================================  =========================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.choices import BackendName, LavaLayout
from loihi_convert.ground.progress import Progress, no_progress

if TYPE_CHECKING:
    from typing_extensions import Self

    from loihi_convert.backends.options import BackendOptions
    from loihi_convert.backends.result import RunResult
    from loihi_convert.ground.arrays import Array
    from loihi_convert.ir.graded import GradedNetwork

__all__ = ["Backend", "BackendOptions", "open_backend"]


class Backend(ABC):
    """Runs exported files; a context manager, because some backends hold processes.

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

    def __init__(self, options: BackendOptions) -> None:
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
        path: Path,
        images: Array,
        timesteps: int,
        *,
        trace: bool = False,
        first_image: int = 0,
        progress: Progress = no_progress,
    ) -> RunResult:
        """Run ``images`` (uint8 ``(N, C, H, W)``) for ``timesteps`` steps each through the network in ``path``.

        ``first_image`` is the index of the first of them in the whole run, if they are a part of it: it counts for
        Poisson input.
        """

    @abstractmethod
    def run_graded(
        self,
        network: GradedNetwork,
        images: Array,
        *,
        is_stream: bool = False,
        trace: bool = False,
        progress: Progress = no_progress,
    ) -> RunResult:
        """Run ``images`` (uint8 ``(N, *input_shape)``) through graded spikes, see `backends.reference.run_graded`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop its processes, if it has any."""
        return


def __getattr__(name: str) -> Any:
    # Imported on first use: the Python that runs Lava may lack pydantic.
    if name == "BackendOptions":
        from loihi_convert.backends.options import BackendOptions

        return BackendOptions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    from loihi_convert.backends.options import BackendOptions

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
