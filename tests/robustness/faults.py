"""Break things on purpose and print what came of it: python tests/robustness/faults.py [FAULT]...

Each trial starts the command line in a folder of its own, does it harm, and compares what it said, how it ended and
what it left (files, temporary files, processes, shared memory) with what was promised. Some minutes; as root, in a
mount namespace of its own with a /dev/shm of its own, so that others' work is neither seen nor touched.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from loihi_convert import netx
from loihi_convert.errors import InputError

KILLS: Final = 60
RACES: Final = 20
EARLY_SIGNALS: Final = 20
LEFT_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 40.0
# As many as `ref` runs longer than a signal waits; it is refused to run one name twice.
LONGEST_FILES: Final = ("longest.net", "longest-2.net", "longest-3.net", "longest-4.net")
_IN_NAMESPACE: Final = "LOIHI_CONVERT_FAULTS"
_SHARED_MEMORY: Final = Path("/dev/shm")
_INTERRUPTED: Final = r"error: interrupted; no partial files were left\.\n"
_CLI: Final = (sys.executable, "-m", "loihi_convert")
_HANGS_AFTER_3_SECONDS: Final = (
    "from loihi_convert.__main__ import main; from loihi_convert.backends.lava.lava_backend import LavaBackend;"
    "LavaBackend.__init__.__kwdefaults__['stall_seconds'] = 3; main()"
)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Bench:
    """A model, its files for T = 2, 64 and, several alike, 1024, and folders in which to break copies of them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0
        self.random = random.Random(0)
        self.originals = root / "originals"
        self.originals.mkdir()
        for words in (
            ("train", "--epochs", "1"),
            ("export", "model.pt", "-T", "2", "--no-verify"),
            ("export", "model.pt", "-T", "64", "-o", "long.net", "--no-verify"),
            ("export", "model.pt", "-T", "1024", "--balance", "percentile", "-o", LONGEST_FILES[0], "--no-verify"),
        ):
            subprocess.run([*_CLI, *words], cwd=self.originals, check=True, capture_output=True)
        for name in LONGEST_FILES[1:]:
            shutil.copy(self.originals / LONGEST_FILES[0], self.originals / name)

    def trial(self, name: str = "work") -> Trial:
        self._count += 1
        place = self._root / f"{self._count}"
        (place / "tmp").mkdir(parents=True)
        shutil.copytree(self.originals, place / name)
        return Trial(place / name, place / "tmp")


class Trial:
    """One command in one folder, and what is left when it has ended."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder, self.temporary = folder, temporary
        self._files = self._listing()
        self._segments = set(_SHARED_MEMORY.iterdir())
        self.process: subprocess.Popen[str] | None = None

    def start(
        self, *words: str, program: tuple[str, ...] = _CLI, stdout: int | IO[Any] = subprocess.PIPE, **options: Any
    ) -> subprocess.Popen[str]:
        environment = {**os.environ, "TMPDIR": str(self.temporary), **options.pop("env", {})}
        environment.pop("PYTHONUNBUFFERED", None)
        self.process = subprocess.Popen(
            [*program, *words],
            cwd=options.pop("cwd", self.folder),
            env=environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        return self.process

    def finish(self) -> Done:
        assert self.process is not None
        try:
            out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            err += f"\nstill running after {PATIENCE_SECONDS:g} s"
        return Done(self.process.returncode, out or "", err or "")

    def run(self, *words: str, **options: Any) -> Done:
        self.start(*words, **options)
        return self.finish()

    def host(self) -> int:
        """Wait for the Lava host to be simulating; return its process."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            groups = {pid: Path(f"/proc/{pid}/cmdline") for pid in self.processes()}
            hosts = [
                pid for pid, line in groups.items() if _read(line).find("lava.host") >= 0 and os.getpgid(pid) == pid
            ]
            if hosts and any(_steps_done(path) > 0 for path in self.temporary.glob("loihi-*/*/steps.npy")):
                return hosts[0]
            time.sleep(0.02)
        raise TimeoutError("no Lava host began to simulate")

    def wait_for_run(self) -> None:
        """Wait for the folder of a run, which is made when all is checked and the simulation begins, or for its end."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None and not list(self.folder.glob("runs/*")):
            time.sleep(0.02)

    def processes(self) -> list[int]:
        """What this trial started and still runs: only its processes know its TMPDIR."""
        mark = f"TMPDIR={self.temporary}\0"
        return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and mark in _read(p / "environ")]

    def wrong(self, done: Done, code: int, message: str, new: tuple[str, ...] = ()) -> str:
        """Say in what ``done`` differs from exit ``code``, ``message`` and no other than ``new`` files."""
        wrong = []
        if done.code != code:
            wrong.append(f"exit code {done.code}, not {code}")
        if "Traceback" in done.err:
            wrong.append("a traceback")
        if not re.search(message, done.err):
            wrong.append(f"said {done.err[-300:]!r}, not {message!r}")
        if message.startswith("^error") and done.err.count("error:") != 1:
            wrong.append("not one error line")
        wrong += self.left(new)
        return "; ".join(wrong)

    def left(self, new: tuple[str, ...] = ()) -> list[str]:
        """Name what is left `LEFT_SECONDS` after the end that was not there before, ``new`` (patterns) apart."""
        deadline = time.monotonic() + LEFT_SECONDS
        while True:
            files = [name for name in self._listing() - self._files if not any(re.fullmatch(n, name) for n in new)]
            left = [
                *(f"process {pid}" for pid in self.processes()),
                *(f"shared memory {path.name}" for path in set(_SHARED_MEMORY.iterdir()) - self._segments),
                # torch makes an empty folder for a compiler that is not used here, once for all programs of the user.
                *(f"temporary {p.name}" for p in self.temporary.iterdir() if not p.name.startswith("torchinductor_")),
                *(f"file {name}" for name in files),
            ]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)

    def _listing(self) -> set[str]:
        return (
            {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")} if self.folder.exists() else set()
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _steps_done(path: Path) -> int:
    # An .npy file of one int64 ends with it.
    try:
        return int.from_bytes(path.read_bytes()[-8:], "little")
    except OSError:
        return 0


def _state(path: Path) -> str:
    """Return ``T = 2`` or the like for a file that is whole, else what is wrong with it."""
    try:
        return f"T = {netx.read(path).timesteps}"
    except InputError as error:
        return str(error)


def kill_export(bench: Bench, kills: int = KILLS) -> Iterator[str]:
    """kill -9 of export --overwrite: half of them anywhere, half while it writes."""
    trial = bench.trial()
    target = trial.folder / "model.net"
    seconds = 2.0
    for index in range(kills):
        steps = 1 + index % 2
        before = _state(target)
        started = time.monotonic()
        child = _forked(trial, "export", "model.pt", "-T", str(steps), "--overwrite")
        if index % 2:
            while not list(trial.folder.glob(".model.net.*")) and os.waitpid(child, os.WNOHANG) == (0, 0):
                pass
            time.sleep(bench.random.uniform(0, 0.004))
        elif index:
            time.sleep(bench.random.uniform(0, seconds))
        if index:
            _kill(child)
        else:
            os.waitpid(child, 0)
            seconds = time.monotonic() - started
        allowed = {before, f"T = {steps}"}
        yield "" if _state(target) in allowed else f"after kill {index}: {_state(target)}, not one of {allowed}"
    left = len(list(trial.folder.glob(".model.net.*")))
    done = trial.run("export", "model.pt", "-T", "2", "--overwrite")
    print(f"{left} temporary files before the next export", file=sys.stderr)
    yield trial.wrong(done, 0, "")


def _forked(trial: Trial, *words: str) -> int:
    """Start a command in a fork of this process, which has imported all it needs."""
    import loihi_convert.cli
    import loihi_convert.cnn.checkpoint
    import loihi_convert.cnn.training
    import loihi_convert.conversion.balancing
    import loihi_convert.pipeline  # noqa: F401

    child = os.fork()
    if child == 0:
        from loihi_convert.__main__ import main as command_line

        os.chdir(trial.folder)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        sys.argv = ["loihi-convert", *words]
        code: object = 1
        try:
            command_line()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            os._exit(code if isinstance(code, int) else 1)
    return child


def _kill(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


_COMMANDS: Final = {
    "train": (("train", "-o", "new.pt", "--epochs", "500"), (r"new\.pt\.resume\.pt",)),
    "export": (("export", "model.pt", "-o", "new.net", "-T", "1,2,4,8,16,32,64"), (r"new-T\d+\.net",)),
    "run on ref": (("run", *LONGEST_FILES), ()),
    "run on sim": (("run", "long.net", "--backend", "sim", "--images", "400"), ()),
}


def signals(bench: Bench) -> Iterator[str]:
    """Ctrl-C, SIGTERM and SIGHUP in train, export, run on ref and on sim, at random moments."""
    for name, (words, new) in _COMMANDS.items():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            trial = bench.trial()
            process = trial.start(*words)
            if name == "run on ref":
                # Imports take longer than a signal waits.
                trial.wait_for_run()
                time.sleep(bench.random.uniform(0.5, 3.0))
            else:
                time.sleep(bench.random.uniform(1.0, 3.0))
            if name == "run on sim" and number != signal.SIGHUP:
                trial.host()
            process.send_signal(number)
            wrong = trial.wrong(trial.finish(), 128 + number, f"(^|\n){_INTERRUPTED}", new)
            yield wrong and f"{name}, {number.name}: {wrong}"


def early_signals(bench: Bench) -> Iterator[str]:
    """Ctrl-C and SIGTERM in the first second, while the libraries are being imported."""
    for words in (("--help",), ("export", "model.pt", "-T", "1", "--overwrite"), ("run", "model.net")):
        trial = bench.trial()
        for index in range(EARLY_SIGNALS):
            number = (signal.SIGINT, signal.SIGTERM)[index % 2]
            process = trial.start(*words)
            time.sleep(index / EARLY_SIGNALS)
            process.send_signal(number)
            done = trial.finish()
            wrong = trial.wrong(done, 128 + number, f"^{_INTERRUPTED}$")
            # Before our first line Python does as it pleases; and the last signals may come too late.
            is_pythons = done.code in (1, -number) and not re.search(", in main|Exception ignored|error:", done.err)
            if done.code != 0 and not is_pythons:
                yield wrong and f"{' '.join(words)}, {number.name}: {wrong}"


def lava_killed(bench: Bench) -> Iterator[str]:
    """A Lava actor killed, the host killed, the command line killed, a model that hangs, a host without memory."""
    words = ("run", "long.net", "--backend", "sim", "--images", "400")
    for name, message in (
        ("actor", "error: sim: .* a process of Lava's was killed by SIGKILL"),
        ("host", "error: sim: .* the Lava host process was killed by SIGKILL"),
        ("hang", "error: sim: .* no progress for 3 s"),
    ):
        trial = bench.trial()
        trial.start(*words, program=(sys.executable, "-c", _HANGS_AFTER_3_SECONDS) if name == "hang" else _CLI)
        host = trial.host()
        actor = max(pid for pid in trial.processes() if os.getpgid(pid) == host and pid != host)
        os.kill(host if name == "host" else actor, signal.SIGSTOP if name == "hang" else signal.SIGKILL)
        at = time.monotonic()
        done = trial.finish()
        took = time.monotonic() - at
        wrong = trial.wrong(done, 4, message) or ("" if took < 8 else f"took {took:.1f} s")
        yield wrong and f"{name}: {wrong}"
    trial = bench.trial()
    process = trial.start(*words)
    trial.host()
    process.kill()
    trial.finish()
    yield "; ".join(trial.left((r"runs", r"runs/[\w-]+")))


def little_memory(bench: Bench) -> Iterator[str]:
    """A memory limit on everything: done, or one sentence."""
    for gibibytes in (0.5, 1.0, 2.0, 4.0):
        for words in (
            ("export", "model.pt", "-T", "1", "--overwrite"),
            ("run", "model.net", "-o", "runs"),
            ("run", "model.net", "--backend", "sim", "--images", "5"),
        ):
            limit = int(gibibytes * 2**30)
            trial = bench.trial()
            done = trial.run(
                *words, preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            )
            fine = done.code == 0 and not trial.left((r"runs.*",))
            wrong = "" if fine else trial.wrong(done, 4, "(^|\n)error: ")
            yield wrong and f"{' '.join(words)} in {gibibytes} GiB: {wrong}"


def places(bench: Bench) -> Iterator[str]:
    """A full disk, a read-only folder, a target that is a folder, a folder that was deleted."""
    for options, reason in (("size=64k", "No space left on device"), ("ro", "Read-only file system")):
        trial = bench.trial()
        mounted = trial.folder / "mounted"
        mounted.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", mounted], capture_output=True)
        for words in (
            ("export", "model.pt", "-T", "1", "-o", "mounted/a.net"),
            ("train", "--epochs", "1", "-o", "mounted/a.pt"),
            ("run", "model.net", "-o", "mounted/runs"),
        ):
            message = f"^error: mounted/.*{reason}.*\n$"
            ended = trial.run(*words) if done.returncode == 0 else Done(-1, "", "cannot mount: not tried")
            # What was trained stays where there was room for it.
            wrong = trial.wrong(ended, 3, message, new=("mounted", r"mounted/a\.pt\.resume\.pt"))
            yield wrong and f"{words[0]}, {reason}: {wrong}"
        subprocess.run(["umount", mounted], check=False)
    trial = bench.trial()
    folder = trial.folder / "a.net"
    folder.mkdir()
    done_export = trial.run("export", "model.pt", "-T", "1", "-o", "a.net", "--overwrite")
    yield trial.wrong(done_export, 3, r"^error: a\.net: cannot be written \(Is a directory\)", new=(r"a\.net",))
    yield from deleted_folder(bench)


def deleted_folder(bench: Bench) -> Iterator[str]:
    """The working folder was deleted under the shell."""
    for words in (("train", "--epochs", "1"), ("export", "model.pt"), ("run", "model.net"), ("run",)):
        trial = bench.trial()
        shell = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
        done = trial.run(*words, program=("sh", "-c", shell, "sh", *_CLI))
        wrong = trial.wrong(done, 3, r"^error: the current folder has been deleted.*\n$")
        yield wrong and f"{' '.join(words)}: {wrong}"


def closed_stdout(bench: Bench) -> Iterator[str]:
    """stdout closed by its reader, full, or missing; the same for stderr."""
    words = ("export", "model.pt", "-T", "1", "--overwrite")
    trial = bench.trial()
    reading, writing = os.pipe()
    os.close(reading)
    done = trial.run(*words, stdout=writing)
    os.close(writing)
    yield trial.wrong(done, 141, "^$")
    for redirection, code, message in (
        (">/dev/full", 4, r"^error: stdout: cannot be written \(No space left on device\)"),
        (">&-", 0, "^$"),
        ("2>&-", 0, "^$"),
        ("2>/dev/full", 0, "^$"),
    ):
        trial = bench.trial()
        done = trial.run(*words, program=("sh", "-c", f'exec "$@" {redirection}', "sh", *_CLI))
        wrong = trial.wrong(done, code, message)
        yield wrong and f"{redirection}: {wrong}"


def surroundings(bench: Bench) -> Iterator[str]:
    """No terminal, NO_COLOR, TERM=dumb, spaces and umlauts, a long TMPDIR, two runs at once in one folder."""
    words = ("run", "model.net", "--backend", "sim", "--images", "3")
    for name, environment in (
        ("work", {}),
        ("work", {"NO_COLOR": "1"}),
        ("work", {"TERM": "dumb"}),
        ("Öl und 'Müll' & Co", {"LC_ALL": "C"}),
        ("ä" * 100, {}),
    ):
        trial = bench.trial(name)
        if name != "work":
            trial.temporary = trial.temporary / name / name
            trial.temporary.mkdir(parents=True)
        done = trial.run(*words, env=environment)
        wrong = trial.wrong(done, 0, "", new=("runs.*",))
        wrong += "" if "Lava equals ref in every output potential" in done.out else "Lava not said to equal ref"
        wrong += "escape codes" if "\x1b" in done.out + done.err else ""
        yield wrong and f"{name} {environment}: {wrong}"
    for twice in (("run", "model.net"), ("export", "model.pt", "-T", "1", "--overwrite")):
        trial = bench.trial()
        first = trial.start(*twice)
        second = trial.run(*twice)
        out, err = first.communicate(timeout=PATIENCE_SECONDS)
        wrong = trial.wrong(second, 0, "", new=("runs.*",)) + trial.wrong(
            Done(first.returncode, out, err), 0, "", new=("runs.*",)
        )
        folders = len(list(trial.folder.glob("runs/*/manifest.json")))
        wrong += "" if folders in (0, 2) else f"{folders} complete run folders"
        yield wrong and f"two of {twice}: {wrong}"


def races(bench: Bench) -> Iterator[str]:
    """Pairs of commands that write one file without --overwrite: one has it, the other keeps what it trained."""
    for words in (
        ("export", "model.pt", "-T", "1", "--no-verify", "-o", "new.net"),
        ("train", "--epochs", "1", "-o", "new.pt"),
    ):
        for _ in range(RACES):
            trial = bench.trial()
            children = [_forked(trial, *words) for _ in range(2)]
            codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
            wrong = [] if codes == [0, 3] else [f"exit codes {codes}"]
            wrong += [] if (trial.folder / words[-1]).exists() else ["no file"]
            yield "; ".join(wrong + trial.left((words[-1], r"new\.pt\.resume\.pt")))


FAULTS: Final[dict[str, Callable[[Bench], Iterator[str]]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        kill_export,
        early_signals,
        signals,
        lava_killed,
        little_memory,
        places,
        closed_stdout,
        surroundings,
        races,
    )
}


def main(names: list[str]) -> int:
    """Try the faults called ``names``, by default all; print the table; return 1 if anything was not as intended."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        bench = Bench(Path(root))
        print(f"{'fault':16}{'tried':>6}{'as intended':>13}{'not':>5}{'seconds':>9}")
        for name in names or FAULTS:
            started = time.monotonic()
            results = list(FAULTS[name](bench))
            wrong = [f"{name}: {result}" for result in results if result]
            seconds = time.monotonic() - started
            print(f"{name:16}{len(results):6}{len(results) - len(wrong):13}{len(wrong):5}{seconds:9.0f}", flush=True)
            problems += wrong
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    if os.geteuid() == 0 and _IN_NAMESPACE not in os.environ:
        os.environ[_IN_NAMESPACE] = "1"
        mount_then = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        os.execvp("unshare", ["unshare", "-m", "sh", "-c", mount_then, "sh", sys.executable, *sys.argv])
    # Under nohup, or after `&` in a script, some are ignored, and every trial would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Threads that wait for each other on busy cores make every trial several times slower.
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main(sys.argv[1:]))
