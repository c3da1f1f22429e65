"""Where workers are: processes on this machine, those of a scheduler that stands already, or jobs of SLURM.

Whoever can talk to a scheduler or worker can run code as its user. Those that are started here therefore open ports
for TLS alone, with keys made for this cluster: a connection needs the certificate that the command gives its workers.
"""

from __future__ import annotations

import logging
import pickle
import platform
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import dask
import distributed
from distributed import Client, Nanny, Security, SpecCluster, Status, as_completed, get_worker

from loihi_convert.batch.computation import Computation, Known, Outcome, outcome_of
from loihi_convert.batch.places import SlurmJobs
from loihi_convert.errors import LoihiConvertError, PlatformError, first_line
from loihi_convert.ground.dependencies import installed_version
from loihi_convert.ground.devices import on_usable_cores
from loihi_convert.ground.progress import quiet

_LOG: Final = logging.getLogger(__name__)

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
_LOOK_SECONDS: Final = 3


class _WithoutHttp:
    def start_http_server(self, *arguments: object, **options: object) -> None:
        # Dask's HTTP server, started without a dashboard too, shows logs and paths to strangers.
        pass


class Scheduler(_WithoutHttp, distributed.Scheduler):  # type: ignore[misc]
    """Listens for TLS alone."""


class Worker(_WithoutHttp, distributed.Worker):  # type: ignore[misc]
    """Listens for TLS alone."""


@contextmanager
def local_cluster(workers: int) -> Iterator[DaskWorkers]:
    """Open ``workers`` processes on this machine, of one thread each."""
    security = Security.temporary()
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
        yield DaskWorkers(stack.enter_context(Client(cluster)))


@contextmanager
def standing_cluster(address: str) -> Iterator[DaskWorkers]:
    """Use the cluster whose scheduler is at ``address``, such as tls://host:8786; keys are those of Dask's settings."""
    _silence()
    if not address.startswith("tls://"):
        _LOG.warning(
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
            _LOG.info("%s has no workers yet: waiting for one", address)
        yield DaskWorkers(client)


@contextmanager
def slurm_cluster(jobs: SlurmJobs, logs: Path) -> Iterator[DaskWorkers]:
    """Submit jobs to SLURM and use them as workers; they end with the command, and their output is in ``logs``.

    Raises
    ------
    PlatformError
        If SLURM refuses.
    """
    with _ctrl_c_only_here():  # Importing it makes Ctrl-C a silent exit with code 0.
        from dask_jobqueue import SLURMCluster
    if shutil.which("sbatch") is None:
        hint = "Run it on a login node of the cluster."
        raise PlatformError("the command sbatch is not found", where="SLURM", hint=hint)
    refused, is_running = list[str](), threading.Event()

    _silence()
    options: dict[str, Any] = {} if jobs.interface is None else {"interface": jobs.interface}
    security = Security.temporary()
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
                    job_cls=_job_class(refused, is_running),
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
        _LOG.info("SLURM has %s: waiting for one to start", f"{jobs.workers} job{'s' * (jobs.workers > 1)}")
        yield DaskWorkers(stack.enter_context(Client(cluster)))


def _job_class(refused: list[str], is_running: threading.Event) -> Any:
    """Return the class of jobs that quote paths and add why SLURM refuses them to ``refused``."""
    from dask_jobqueue.slurm import SLURMJob

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
                    _LOG.warning("SLURM refuses another job: %s", refused[-1])
                raise

    return Job


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


SAME_VERSIONS: Final = ("loihi-convert", "torch", "numpy")
"""Packages of which each worker must have the version of this process, for the same result to the last bit."""

_COMPUTING: Final = threading.Lock()
"""Held in a worker while it computes: if it has several threads, they would change the number of threads of torch and
the output of each other's items."""

_Shared = TypeVar("_Shared")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class DaskWorkers:
    """The workers of a Dask client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # The worker that computed an item of each place last.
        self._addresses: dict[Hashable, str] = {}

    @property
    def count(self) -> int:
        """The number of workers, at least 1."""
        return max(1, len(self._client.nthreads()))

    def map(
        self,
        function: Callable[[_Shared, _Item], _Result],
        shared: _Shared,
        items: Sequence[_Item],
        *,
        place: Callable[[_Item], Hashable] | None = None,
        done: Callable[[_Item], None] = lambda item: None,
    ) -> list[_Result]:
        """Return ``function(shared, item)`` for each of ``items``, in their order; ``done`` is called as each ends.

        An item is computed again if its worker dies, a few times. Items with the same ``place`` go to the same worker,
        unless it is busy and another one is idle.

        Parameters
        ----------
        function
            A function of a module, of which only the name is sent.
        shared, items
            Values that can be pickled; ``str(item)`` names an item in an error.

        Raises
        ------
        LoihiConvertError
            The first error of ``function``.
        PlatformError
            If a worker died, each time, while it computed an item; or has other versions than this process; or if the
            scheduler is gone.
        """
        running: dict[Any, int] = {}
        found: dict[int, _Result] = {}
        # As a task, not as scattered data: if its worker dies, another one gets it from the scheduler.
        kept = self._submit(bytes, pickle.dumps(shared))
        try:
            for index, item in enumerate(items):
                address = None if place is None else self._addresses.get(place(item))
                # A worker that is gone is not waited for.
                near = {} if address is None else {"workers": [address], "allow_other_workers": True}
                running[self._submit(_mapped, function, kept, item, **near)] = index
            for future in self._ended(running):
                index = running.pop(future)
                item = items[index]
                if error := _error_of(future, item):
                    raise error
                address, found[index] = future.result()
                if place is not None:
                    self._addresses[place(item)] = address
                done(item)
        finally:
            self._client.cancel([*running, kept], force=True)
        return [found[index] for index in range(len(items))]

    def outcomes(self, waiting: Sequence[Computation[Any]], known: Known) -> Iterator[tuple[Computation[Any], Outcome]]:
        """Yield what ``waiting``, each after what it needs, gives, as each ends; ``known`` is what is not among it.

        Raises
        ------
        PlatformError
            If the scheduler is gone.
        """
        futures: dict[str, Any] = {}
        running: dict[Any, Computation[Any]] = {}
        for one in waiting:
            needed = [futures.get(need.name) or known(need) for need in one.needs]
            future = self._submit(outcome_of, one, needed)
            futures[one.name], running[future] = future, one
        futures.clear()
        for future in self._ended(running):
            one = running.pop(future)
            error = _error_of(future, "it")
            yield one, future.result() if error is None else Outcome(error=str(error), is_final=False)

    def _ended(self, running: Iterable[Any]) -> Iterator[Any]:
        """Yield the futures as they end; meanwhile say if no worker is left."""
        is_done = threading.Event()

        def watch() -> None:
            count = 0
            while not is_done.wait(_LOOK_SECONDS):
                with suppress(OSError, TimeoutError, ValueError, RuntimeError):
                    before, count = count, len(self._client.nthreads())
                    if before and not count:
                        _LOG.warning("the last worker is gone: waiting for another one; Ctrl-C keeps what is finished")

        # Its end is not waited for: a scheduler that is gone does not answer.
        threading.Thread(target=watch, daemon=True).start()
        try:
            yield from as_completed(list(running))
        finally:
            is_done.set()

    def _submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            # Dask warns about large arguments, such as files.
            warnings.simplefilter("ignore", UserWarning)
            return self._client.submit(_computed, versions_here(), function, *arguments, pure=False, **options)


def _computed(versions: Mapping[str, str], function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call ``function`` in a worker, which must have ``versions``."""
    require_versions(versions)
    with _COMPUTING, quiet():
        return function(*arguments)


def _mapped(function: Callable[[Any, _Item], _Result], shared: bytes, item: _Item) -> tuple[str, _Result]:
    """Compute an item in a worker; return the worker's address, and the result."""
    return get_worker().address, function(_unpacked(shared), item)


@lru_cache(maxsize=1)
def _unpacked(content: bytes) -> Any:
    """Return the value, kept for the next item of the same worker."""
    return pickle.loads(content)


def require_versions(versions: Mapping[str, str]) -> None:
    """Raise a `PlatformError` if this process has others than ``versions``, those of another process."""
    for name, here in versions_here().items():
        if here != versions[name]:
            raise PlatformError(
                f"the worker on {platform.node()} has {name} {here or '(none)'}",
                where="Dask",
                expected=f"must be {versions[name] or '(none)'}, as where the command runs",
                hint="Install the same environment everywhere.",
            )


def versions_here() -> dict[str, str]:
    """Return the versions of `SAME_VERSIONS`; empty texts for what is not installed."""
    return {name: installed_version(name) or "" for name in SAME_VERSIONS}


def _error_of(future: Any, item: object) -> Exception | None:
    """Return why a future that has ended has no result for ``item``; None if it has one.

    Raises
    ------
    PlatformError
        If the scheduler is gone.
    """
    if future.status == "finished":
        return None
    if future.status != "error":
        hint = "Run the same command again; finished cells are kept."
        raise PlatformError("has ended, or cannot be reached any more", where="Dask scheduler", hint=hint)
    error: Exception = future.exception()
    if isinstance(error, LoihiConvertError | MemoryError):
        return error
    found = f"{item} cannot be computed by a worker ({type(error).__name__}: {error})"
    hint = "If it can be computed without a cluster, the environments differ: install the same one everywhere."
    if type(error).__name__ == "KilledWorker":
        last = getattr(getattr(error, "last_worker", None), "address", None) or "unknown"
        found = f"every worker that computed {item} died, the last at {last}"
        hint = "The memory or the time limit of a worker may be too small."
    return PlatformError(found, where="Dask", hint=hint)
