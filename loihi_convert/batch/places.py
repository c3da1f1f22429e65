"""Where a verb computes: in this process, on several of this machine, on a Dask scheduler, or in jobs of SLURM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from loihi_convert.errors import PlatformError, UsageError
from loihi_convert.ground.dependencies import install_line
from loihi_convert.ground.devices import usable_core_count
from loihi_convert.ground.options import Flag, declared

if TYPE_CHECKING:
    from loihi_convert.batch.clusters import DaskWorkers
    from loihi_convert.ground.choices import Device


@dataclass(frozen=True)
class SlurmJobs:
    """Jobs of one core each, as dask-jobqueue submits them.

    Parameters
    ----------
    workers
        Number of jobs.
    partition, account
        None: SLURM's default.
    walltime
        Time limit of a job, HH:MM:SS.
    memory
        Memory of a job, such as 4GB.
    interface
        Network interface that nodes reach each other by, such as ib0; None: the default.
    """

    workers: int
    partition: str | None = None
    walltime: str = "01:00:00"
    memory: str = "4GB"
    account: str | None = None
    interface: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a command computes.

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

    @property
    def is_here(self) -> bool:
        """Whether it is this process."""
        return self.scheduler is None and self.jobs is None and not self.workers

    def device(self, name: Device) -> str:
        """Return where torch computes there, for the option ``--device``; ``auto`` is the CPU on several workers."""
        from loihi_convert.ground.devices import chosen_device

        return chosen_device(name) if self.is_here else "cuda" if name == "cuda" else "cpu"

    @contextmanager
    def opened(self, most: int | None = None, output: Path = Path()) -> Iterator[DaskWorkers | None]:
        """Open the workers, on this machine at most ``most``; None: this process computes.

        Jobs of SLURM write their output into ``output``.

        Raises
        ------
        PlatformError
            If Dask is not installed or does not answer.
        """
        if self.is_here:
            yield None
            return
        with ExitStack() as stack:
            try:
                from loihi_convert.batch.clusters import local_cluster, slurm_cluster, standing_cluster

                if self.scheduler is not None:
                    cluster = standing_cluster(self.scheduler)
                elif self.jobs is not None:
                    cluster = slurm_cluster(self.jobs, output / "slurm")
                else:
                    cluster = local_cluster(self.workers if most is None else min(self.workers, most))
                workers = stack.enter_context(cluster)
            except ImportError as error:
                # Dask names no module where it asks for keys.
                package = (error.name or "cryptography").partition(".")[0].replace("_", "-")
                raise PlatformError(
                    f"cannot be imported ({error})",
                    where=package,
                    expected="is needed for several workers",
                    hint=f"Run: {install_line([package])}. Without it, `workers=0` computes in this process.",
                ) from error
            yield workers


@declared("Parallel execution")
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
            jobs = _slurm_jobs(self.slurm)
            return Place(jobs.workers, jobs=jobs)
        if self.shard is not None:
            return Place(0)
        if default is None:
            is_installed = all(map(find_spec, ("distributed", "cryptography")))
            default = usable_core_count() if self.scheduler or is_installed else 0
        return Place(default if self.workers is None else self.workers, self.scheduler)


NO_SHARD: Final = ("workers", "scheduler", "slurm")
"""Those of `PlaceOptions` for a verb that computes everything."""


def _slurm_jobs(text: str) -> SlurmJobs:
    parts = text.split(",")
    pairs = dict(part.partition("=")[::2] for part in parts)
    keys = [field.name for field in fields(SlurmJobs)]
    count = pairs.pop("workers", "")
    is_count = count.isdecimal() and int(count) > 0
    if not is_count or not pairs.keys() <= set(keys) or not all(pairs.values()) or len(pairs) + 1 < len(parts):
        expected = f"must be workers=N, the number of jobs, with key=value pairs of {', '.join(keys[1:])}, each once"
        raise UsageError(f"found {text!r}", where="slurm", expected=expected)
    return SlurmJobs(workers=int(count), **pairs)
