"""Cells on Dask: a cluster of this machine's cores, a scheduler that stands already, or jobs of SLURM.

A worker gets a cell and returns its outcome; only this process writes, so workers need no access to its folder.
They read the checkpoints and images, under the same paths.

Whoever can talk to a scheduler or worker can run code as its user. Those that are started here therefore open ports
for TLS alone, with keys made for this cluster: a connection needs the certificate that the command gives its workers.
"""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from loihi_convert.batch.computation import Cell, Outcome, compute
from loihi_convert.batch.dask_workers import (
    COMPUTING,
    ITEMS_PER_WORKER,
    DaskWorkers,
    error_of,
    require_versions,
    versions_here,
)
from loihi_convert.dependencies import install_line
from loihi_convert.errors import LoihiConvertError, PlatformError, first_line, rendered
from loihi_convert.threads import on_usable_cores

if TYPE_CHECKING:
    from distributed import Client

_ENVIRONMENT: Final = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    # Otherwise each worker's only thread is bound to the first core.
    "OMP_PROC_BIND": "false",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}
"""Environment of a worker: one cell on one core, and the largest thresholds that glibc takes by itself.

Dask's own, 64 KiB, makes a worker return the memory of each map, and so fault its pages in again: a third of the time.
"""

_WORKER_KEYS: Final = ("tls_ca_file", "tls_worker_cert", "tls_worker_key")
"""What a worker needs of a ``distributed.Security``."""

_CONNECT_SECONDS: Final = 10
_SUBMIT_SECONDS: Final = 0.1


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
    account: str | None = None
    walltime: str = "01:00:00"
    memory: str = "4GB"
    interface: str | None = None


class OnDask:
    """Computes cells with a Dask client."""

    def __init__(self, client: Client) -> None:
        from distributed import as_completed

        self._client = client
        self._done = as_completed()
        self._cells: dict[str, Cell[Any]] = {}

    @property
    def slots(self) -> int:
        """Twice the number of workers."""
        return ITEMS_PER_WORKER * self.workers.count

    @property
    def workers(self) -> DaskWorkers:
        """The same workers, for a function of many items."""
        return DaskWorkers(self._client)

    def submit(self, cell: Cell[Any], needed: Sequence[Any] = ()) -> None:
        """Have a worker compute ``cell``."""
        with warnings.catch_warnings():
            # Dask warns about large arguments, such as files.
            warnings.simplefilter("ignore", UserWarning)
            future = self._client.submit(
                _computed, versions_here(), cell, tuple(needed), key=f"cell-{cell.name}", pure=False
            )
        self._cells[future.key] = cell
        self._done.add(future)

    def next_done(self) -> tuple[Cell[Any], Outcome]:
        """Wait for the next cell of any worker.

        Raises
        ------
        PlatformError
            If the scheduler is gone.
        """
        future = next(self._done)
        cell = self._cells.pop(future.key)
        if future.status == "finished":
            with suppress(Exception):
                return cell, future.result()
        error = error_of(future, "it", gone="Finished cells are kept. Run the same command again for the rest.")
        reason = rendered(error) if isinstance(error, LoihiConvertError) else f"{type(error).__name__}: {error}"
        return cell, Outcome(error=reason, is_final=False)


def _computed(versions: Mapping[str, str], cell: Cell[Any], needed: Sequence[Any]) -> Outcome:
    """As `compute`, in a worker, which must have ``versions``."""
    try:
        require_versions(versions)
    except PlatformError as error:
        return Outcome(error=rendered(error), is_final=False)
    with COMPUTING:
        return compute(cell, needed)


@contextmanager
def local_cluster(workers: int) -> Iterator[OnDask]:
    """Open ``workers`` processes on this machine, of one thread each.

    Raises
    ------
    PlatformError
        If ``distributed`` is not installed.
    """
    with _dask("distributed"):
        import dask
        from distributed import Client, Nanny, SpecCluster

        from loihi_convert.batch.dask_nodes import Scheduler, Worker
    security = _temporary_keys()
    node = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    # No limit: a worker above a share of the memory would be paused or killed.
    of_worker = {"nthreads": 1, "memory_limit": 0, "env": _ENVIRONMENT, "worker_class": Worker}
    worker = {"cls": Nanny, "options": {**node, **of_worker, "silence_logs": logging.CRITICAL}}
    with ExitStack() as stack:
        # glibc reads its thresholds when a process starts, before `env` is set in it.
        with (
            _ctrl_c_only_here(),
            on_usable_cores(),
            dask.config.set({"distributed.nanny.pre-spawn-environ": _ENVIRONMENT}),
        ):
            cluster = stack.enter_context(
                SpecCluster(
                    workers=dict.fromkeys(range(workers), worker),
                    # Any free port: another cluster may have the usual one.
                    scheduler={"cls": Scheduler, "options": {**node, "port": 0}},
                    security=security,
                    silence_logs=logging.CRITICAL,
                )
            )
        yield OnDask(stack.enter_context(Client(cluster)))


@contextmanager
def standing_cluster(address: str) -> Iterator[OnDask]:
    """Use the cluster whose scheduler is at ``address``, such as tls://host:8786; keys are those of Dask's settings.

    Raises
    ------
    PlatformError
        If ``distributed`` is not installed, or the scheduler does not answer.
    """
    with _dask("distributed"):
        from distributed import Client
    _silence()
    if not address.startswith("tls://"):
        logging.getLogger(__name__).warning(
            "%s is neither encrypted nor authenticated: everyone who can connect to it can run code as you. "
            "Use a scheduler at tls://",
            address,
        )
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    # TypeError: TLS without keys.
    except (OSError, ValueError, TypeError, TimeoutError) as error:
        raise PlatformError(
            f"no Dask scheduler answers within {_CONNECT_SECONDS} s ({first_line(error)})",
            where=address,
            hint="Start one with `dask scheduler`, and workers with `dask worker ADDRESS --nthreads 1`. "
            "For tls://, Dask's settings name the keys.",
        ) from error
    with client:
        if not client.nthreads():
            # Jobs that are queued may bring some.
            logging.getLogger(__name__).info("%s has no workers yet: waiting for one", address)
        yield OnDask(client)


@contextmanager
def slurm_cluster(jobs: SlurmJobs, logs: Path) -> Iterator[OnDask]:
    """Submit jobs to SLURM and use them as workers; they end with the command.

    Parameters
    ----------
    logs
        Folder for the output of the jobs.

    Raises
    ------
    PlatformError
        If dask-jobqueue is not installed, or SLURM refuses.
    """
    with _dask("dask_jobqueue"):
        import dask
        from dask_jobqueue import SLURMCluster
        from dask_jobqueue.slurm import SLURMJob
        from distributed import Client, Status

        from loihi_convert.batch.dask_nodes import Scheduler, Worker
    from shutil import which

    if which("sbatch") is None:
        hint = "Run it on a login node of the cluster."
        raise PlatformError("the command sbatch is not found", where="SLURM", hint=hint)
    log, refused, is_running = logging.getLogger(__name__), list[str](), threading.Event()

    class Job(SLURMJob):  # type: ignore[misc]
        def __init__(self, *arguments: Any, security: Any, **options: Any) -> None:
            # dask-jobqueue does not quote the paths of the keys.
            quoted = copy(security)
            for name in _WORKER_KEYS:
                setattr(quoted, name, shlex.quote(getattr(security, name)))
            super().__init__(*arguments, security=quoted, **options)

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                # Dask does not report it. The message ends with the output of sbatch.
                self.status = Status.failed
                refused.append(str(error).rstrip().rpartition("\n")[2])
                if is_running.is_set():
                    log.warning("SLURM refuses another job: %s", refused[-1])
                raise

    _silence()
    options: dict[str, Any] = {} if jobs.interface is None else {"interface": jobs.interface}
    security = _temporary_keys()
    # dask-jobqueue does not quote paths: its `log_directory` must not contain a space.
    log_path = shlex.quote(f"{logs}/dask-worker-%J")
    directives = [*dask.config.get("jobqueue.slurm.job-extra-directives"), f"-o {log_path}.out", f"-e {log_path}.err"]
    with ExitStack() as stack:
        try:
            logs.mkdir(parents=True, exist_ok=True)
            # SLURM's jobs get the keys in files, in a folder that only this user can read.
            keys = Path(stack.enter_context(TemporaryDirectory(prefix="keys-", dir=logs.absolute())))
            for name in _WORKER_KEYS:
                (keys / name).write_text(getattr(security, name))
                setattr(security, name, str(keys / name))
            cluster = stack.enter_context(
                SLURMCluster(
                    job_cls=Job,
                    queue=jobs.partition,
                    account=jobs.account,
                    walltime=jobs.walltime,
                    memory=jobs.memory,
                    cores=1,
                    processes=1,
                    python=shlex.quote(sys.executable),
                    job_extra_directives=directives,
                    scheduler_cls=Scheduler,
                    scheduler_options={"dashboard_address": None, "dashboard": False, **options},
                    worker_extra_args=["--no-dashboard", "--worker-class", f"{Worker.__module__}.{Worker.__name__}"],
                    security=security,
                    job_script_prologue=[f"export {name}={value}" for name, value in _ENVIRONMENT.items()],
                    **options,
                )
            )
            cluster.scale(jobs=jobs.workers)
            while len(cluster.workers) < jobs.workers and not refused:
                time.sleep(_SUBMIT_SECONDS)
            # Replaces jobs that end, as at their time limit.
            cluster.adapt(minimum_jobs=jobs.workers, maximum_jobs=jobs.workers)
        except (RuntimeError, ValueError, OSError) as error:
            raise PlatformError(f"refuses the jobs ({error})", where="SLURM") from error
        if refused:
            raise PlatformError(f"refuses the jobs ({refused[0]})", where="SLURM")
        is_running.set()
        log.info("SLURM has %s: waiting for one to start", f"{jobs.workers} job{'s' * (jobs.workers > 1)}")
        yield OnDask(stack.enter_context(Client(cluster)))


def _temporary_keys() -> Any:
    """Return a ``distributed.Security`` with keys that exist only in this process."""
    with _dask("distributed"):
        from distributed import Security
    with _dask("cryptography"):
        return Security.temporary()


@contextmanager
def _dask(package: str) -> Iterator[None]:
    """Turn a failed import into one sentence with the line that installs the extra."""
    try:
        yield
    except ImportError as error:
        name = package.replace("_", "-")
        raise PlatformError(
            f"cannot be imported ({error})",
            where=name,
            expected="is needed for several workers",
            hint=f"Run: {install_line([name])}. Without it, `workers=0` computes in this process.",
        ) from error


def _silence() -> None:
    """Keep Dask's own messages off stderr; what matters becomes an error or a row."""
    # Dask gives each of its loggers a level of its own.
    for name in (*logging.root.manager.loggerDict, "asyncio", "distributed", "dask_jobqueue", "tornado"):
        if name.partition(".")[0] in ("asyncio", "distributed", "dask_jobqueue", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _ctrl_c_only_here() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all: this process ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
