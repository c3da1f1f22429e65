"""Where cells are computed: options of several verbs, and the executor that they choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from loihi_convert.cli import options
from loihi_convert.errors import PlatformError, UsageError
from loihi_convert.threads import usable_core_count

if TYPE_CHECKING:
    from loihi_convert.cells.dask_executors import SlurmJobs
    from loihi_convert.cells.executors import Executor
    from loihi_convert.choices import Device
    from loihi_convert.simulation.image_shards import Workers

PANEL: Final = "Parallel execution"
FAILED: Final = PlatformError.exit_code
"""The exit code if a cell failed for a reason outside the network and its options."""

_WORKERS = (
    "Number of worker processes on this machine, one core each; 0: compute in this process. Default: one per core if "
    "Dask is installed, else 0."
)
_SHARDS = "Divide the images among N processes on this machine, one core each; default: this process, on all cores."
_SCHEDULER = (
    "Address of a Dask scheduler, such as tls://host:8786; its workers must see the same files, except small data "
    "sets and images of `export`, which are sent to them."
)
_SLURM = (
    "Submit workers to SLURM, with commas between: workers=N (required), partition=NAME, walltime=HH:MM:SS, "
    "memory=4GB, account=NAME, interface=ib0."
)
_SLURM_KEYS: Final = ("workers", "partition", "walltime", "memory", "account", "interface")


# The types of parameters of several verbs.
CellWorkers = Annotated[int | None, options.named("--workers", PANEL, _WORKERS, metavar="N")]
ShardWorkers = Annotated[int | None, options.named("--workers", PANEL, _SHARDS, metavar="N")]
Scheduler = Annotated[str | None, options.named("--scheduler", PANEL, _SCHEDULER, metavar="ADDRESS")]
Slurm = Annotated[str | None, options.named("--slurm", PANEL, _SLURM, metavar="KEY=VALUE,...")]


@dataclass(frozen=True)
class Place:
    """Where cells are computed.

    Parameters
    ----------
    workers
        Number of processes; 0: this one.
    scheduler
        Address of a Dask scheduler.
    jobs
        Jobs of SLURM.
    """

    workers: int
    scheduler: str | None = None
    jobs: SlurmJobs | None = None

    def executor(self, most: int, output: Path) -> AbstractContextManager[Executor]:
        """Open the executor for at most ``most`` cells; jobs of SLURM write their output into ``output``."""
        if self.is_here:
            from loihi_convert.cells.executors import InThisProcess

            return nullcontext(InThisProcess())
        from loihi_convert.cells import dask_executors

        if self.scheduler is not None:
            return dask_executors.standing_cluster(self.scheduler)
        if self.jobs is not None:
            return dask_executors.slurm_cluster(self.jobs, output / "slurm")
        return dask_executors.local_cluster(min(self.workers, most))

    @property
    def is_here(self) -> bool:
        """Whether it is this process."""
        return self.scheduler is None and self.jobs is None and not self.workers

    def device(self, name: Device) -> str:
        """Return where torch computes there, for the option ``--device``; ``auto`` is the CPU on several workers.

        Raises
        ------
        UsageError
            As in `devices.chosen_device`; workers are not asked.
        """
        from loihi_convert.devices import chosen_device

        return chosen_device(name) if self.is_here else "cuda" if name == "cuda" else "cpu"

    @contextmanager
    def shard_workers(self) -> Iterator[Workers | None]:
        """Open the workers for shards of images; None: this process."""
        if self.is_here:
            yield None
            return
        from loihi_convert.cells.dask_executors import OnDask

        with self.executor(self.workers, Path()) as executor:
            assert isinstance(executor, OnDask)
            yield executor.workers


def chosen_place(
    workers: int | None, scheduler: str | None, slurm: str | None, shard: str | None = None, default: int | None = None
) -> Place:
    """Return the place that a user chose.

    Parameters
    ----------
    workers, scheduler, slurm
        Values of the options; at most one.
    shard
        A part of the cells, for this process; instead of the others.
    default
        Number of processes if nothing is given; None: one for each core if Dask is installed.

    Raises
    ------
    UsageError
        If more than one is given, or a value is impossible.
    """
    every = {"workers": workers, "scheduler": scheduler, "slurm": slurm, "shard": shard}
    given = [name for name, value in every.items() if value is not None]
    if len(given) > 1:
        raise UsageError("given", where=given[0], expected=f"must not be given with `{given[1]}`")
    if workers is not None and workers < 0:
        raise UsageError(f"found {workers}", where="workers", expected="must be at least 0")
    if slurm is not None:
        jobs = _parse_slurm(slurm)
        return Place(jobs.workers, jobs=jobs)
    if shard is not None:
        return Place(0)
    if default is None:
        is_installed = all(map(find_spec, ("distributed", "cryptography")))
        default = usable_core_count() if scheduler or is_installed else 0
    return Place(default if workers is None else workers, scheduler)


def _parse_slurm(text: str) -> SlurmJobs:
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = [key for key in pairs if key not in _SLURM_KEYS]
    if unknown or not all(pairs.values()) or len(pairs) < len(text.split(",")):
        expected = f"must be key=value pairs of {', '.join(_SLURM_KEYS)}, each once"
        raise UsageError(f"found {text!r}", where="slurm", expected=expected)
    count = pairs.pop("workers", "")
    if not count.isdecimal() or not int(count):
        raise UsageError(f"found {text!r}", where="slurm", expected="must contain workers=N, the number of jobs")
    from loihi_convert.cells.dask_executors import SlurmJobs

    return SlurmJobs(workers=int(count), **pairs)
