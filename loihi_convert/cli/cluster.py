"""Where cells are computed: options of several verbs, and the executor that they choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from loihi_convert.errors import PlatformError, UsageError
from loihi_convert.options import Flag, declared
from loihi_convert.threads import usable_core_count

if TYPE_CHECKING:
    from loihi_convert.batch.dask_executors import SlurmJobs
    from loihi_convert.batch.executors import Executor
    from loihi_convert.choices import Device
    from loihi_convert.simulation.image_shards import Workers

PANEL: Final = "Parallel execution"
FAILED: Final = PlatformError.exit_code
"""The exit code if a cell failed for a reason outside the network and its options."""

_SLURM_KEYS: Final = ("workers", "partition", "walltime", "memory", "account", "interface")


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
            from loihi_convert.batch.executors import InThisProcess

            return nullcontext(InThisProcess())
        from loihi_convert.batch import dask_executors

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
        from loihi_convert.batch.dask_executors import OnDask

        with self.executor(self.workers, Path()) as executor:
            assert isinstance(executor, OnDask)
            yield executor.workers


@declared(PANEL)
class PlaceOptions:
    """Where a verb computes; at most one of them.

    Parameters
    ----------
    workers
        Divide the images among N processes on this machine, one core each. Default: this process, on all cores.
    scheduler
        Address of a Dask scheduler, such as tls://host:8786; its workers must see the same files, except small data
        sets and images of `export`, which are sent to them.
    slurm
        Submit workers to SLURM, with commas between: workers=N (required), partition=NAME, walltime=HH:MM:SS,
        memory=4GB, account=NAME, interface=ib0.
    shard
        Compute only part K of N, in this process, as in an array job of SLURM.
    """

    workers: Annotated[int | None, Field(ge=0)] = None
    scheduler: Annotated[str | None, Flag("ADDRESS")] = None
    slurm: Annotated[str | None, Flag("KEY=VALUE,...")] = None
    shard: Annotated[str | None, Flag("K/N")] = None

    def __post_init__(self) -> None:
        if len(self.given) > 1:
            first, second = list(self.given)[:2]
            raise UsageError("given", where=first, expected=f"must not be given with `{second}`")

    @property
    def given(self) -> dict[str, object]:
        """Those that are given."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def chosen(self, default: int | None = None) -> Place:
        """Return the place that a user chose.

        ``default`` is the number of processes if nothing is given; None: one for each core if Dask is installed.

        Raises
        ------
        UsageError
            If a value is impossible.
        """
        if self.slurm is not None:
            jobs = _parse_slurm(self.slurm)
            return Place(jobs.workers, jobs=jobs)
        if self.shard is not None:
            return Place(0)
        if default is None:
            is_installed = all(map(find_spec, ("distributed", "cryptography")))
            default = usable_core_count() if self.scheduler or is_installed else 0
        return Place(default if self.workers is None else self.workers, self.scheduler)


NO_SHARD: Final = ("workers", "scheduler", "slurm")
"""Those of `PlaceOptions` for a verb that computes everything."""


def _parse_slurm(text: str) -> SlurmJobs:
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = [key for key in pairs if key not in _SLURM_KEYS]
    if unknown or not all(pairs.values()) or len(pairs) < len(text.split(",")):
        expected = f"must be key=value pairs of {', '.join(_SLURM_KEYS)}, each once"
        raise UsageError(f"found {text!r}", where="slurm", expected=expected)
    count = pairs.pop("workers", "")
    if not count.isdecimal() or not int(count):
        raise UsageError(f"found {text!r}", where="slurm", expected="must contain workers=N, the number of jobs")
    from loihi_convert.batch.dask_executors import SlurmJobs

    return SlurmJobs(workers=int(count), **pairs)
