"""Backend `sim`: hand traces and the oracle through the real Lava runtime, and what is left when a run fails."""

from __future__ import annotations

import functools
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support import oracle

from loihi_convert import netx
from loihi_convert.backends.backend import BackendOptions
from loihi_convert.backends.lava import host_process, lava_backend
from loihi_convert.backends.lava.exchange import LavaRun, Timing
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.result import RunResult
from loihi_convert.chip import limits
from loihi_convert.errors import BackendError, DataError, LoihiConvertError, PlatformError, RangeError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import LavaLayout, Reset
from loihi_convert.ground.progress import progress_to
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense

pytestmark = pytest.mark.lava


@pytest.fixture(scope="module")
def simulator() -> Iterator[LavaBackend]:
    with LavaBackend() as backend:
        yield backend


@pytest.fixture
def run(simulator: LavaBackend) -> Callable[..., RunResult]:
    return functools.partial(simulator.run, trace=True)


NUMBERS = itertools.count(1)


def layer(synapse: Conv | Dense, neuron: tuple[int, int] | None = None, *, first: bool = False) -> QuantizedLayer:
    """A layer whose neurons all have ``neuron`` = (threshold, initial potential)."""
    channels = synapse.channels
    return QuantizedLayer(
        name="first" if first else f"later {next(NUMBERS)}",
        synapse=synapse,
        neuron=None if neuron is None else IntegerNeuron(*(np.full(channels, value, np.int32) for value in neuron)),
        scale=np.ones(channels),
        largest_input=255 if first else 1,
    )


def one_neuron(weight: int, bias: int, threshold: int, initial_potential: int, reset: Reset) -> QuantizedNetwork:
    """One pixel -> one neuron -> an output that adds 3 per spike."""
    first = Dense(np.array([[weight]], np.int32), np.array([bias], np.int32))
    last = Dense(np.array([[3]], np.int32))
    layers = (layer(first, (threshold, initial_potential), first=True), layer(last))
    return QuantizedNetwork((1, 1, 1), layers, timesteps=8, max_timesteps=64, pixel_bits=8, reset=reset)


def pixels(*values: int) -> Array:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


NEVER = limits.NEVER_FIRES

# Every step: V + weight x pixel + bias, clipped; a spike where that is >= threshold; then the reset.
HAND_TRACES = {
    # 4 8 12- 6 10- 4 8: 12 - 10 = 2 stays; 10 reaches the threshold exactly and leaves 0.
    "soft": (one_neuron(1, 0, 10, 0, "soft"), 4, [4, 8, 2, 6, 0, 4, 8], [0, 0, 1, 0, 1, 0, 0]),
    # 4 8 12- 4 8 12- 4
    "hard": (one_neuron(1, 0, 10, 0, "hard"), 4, [4, 8, 0, 4, 8, 0, 4], [0, 0, 1, 0, 0, 1, 0]),
    # 9 13- 7 11- 5 9 13-
    "initial potential": (one_neuron(1, 0, 10, 5, "soft"), 4, [9, 3, 7, 1, 5, 9, 3], [0, 1, 0, 1, 0, 0, 1]),
    # Lava's LIF clips its 24 bits at +-131071.984375: rounded down, -131072. Its largest threshold is 131071, exceeded.
    "lower limit, hard": (
        one_neuron(-127, 0, 10, 0, "hard"),
        255,
        [-32385, -64770, -97155, -129540, -131072, -131072],
        [0, 0, 0, 0, 0, 0],
    ),
    "upper limit, hard": (
        one_neuron(127, 0, NEVER, 0, "hard"),
        255,
        [32385, 64770, 97155, 129540, 0, 32385],
        [0, 0, 0, 0, 1, 0],
    ),
    "negative current": (one_neuron(-1, 0, 10, 0, "soft"), 4, [-4, -8, -12, -16], [0, 0, 0, 0]),
    # 3 6 9 12- 5 8 11-
    "bias": (one_neuron(1, 3, 10, 0, "soft"), 0, [3, 6, 9, 2, 5, 8, 1], [0, 0, 0, 1, 0, 0, 1]),
    # 30 - 7 = 23 stays above the threshold: the neuron fires at every step, and the rest piles up.
    "more than one spike's worth": (one_neuron(2, 0, 7, 0, "soft"), 15, [23, 46, 69], [1, 1, 1]),
    # -127 x 255 = -32385 a step; five steps would be -161925.
    "lower limit": (
        one_neuron(-127, 0, 10, 0, "soft"),
        255,
        [-32385, -64770, -97155, -129540, -131071, -131071],
        [0, 0, 0, 0, 0, 0],
    ),
    # The channel that can never fire stays at the upper limit.
    "upper limit": (
        one_neuron(127, 0, NEVER, 0, "soft"),
        255,
        [32385, 64770, 97155, 129540, 131071, 131071],
        [0, 0, 0, 0, 0, 0],
    ),
    # Clipped to 131071 first, which then reaches the threshold: what was above the limit is lost.
    "clipped, then fired": (
        one_neuron(127, 0, 131071, 0, "soft"),
        255,
        [32385, 64770, 97155, 129540, 0, 32385],
        [0, 0, 0, 0, 1, 0],
    ),
}


@pytest.mark.parametrize("case", HAND_TRACES)
def test_a_neuron_follows_its_hand_trace(case: str, run: Callable[..., RunResult]) -> None:
    network, pixel, potentials, spikes = HAND_TRACES[case]
    result = run(network, pixels(pixel), len(spikes))
    hidden, output = result.traces
    assert hidden.potentials.dtype == np.int32
    assert hidden.spikes is not None
    assert hidden.spikes.dtype == np.bool_
    assert hidden.potentials.ravel().tolist() == potentials
    assert hidden.spikes.ravel().tolist() == spikes
    assert output.spikes is None
    assert result.potentials.ravel().tolist() == (3 * np.cumsum(spikes)).tolist()
    assert result.spike_counts.ravel().tolist() == spikes


def test_the_readout_clips(run: Callable[..., RunResult]) -> None:
    only = layer(Dense(np.array([[127], [-127]], np.int32)), first=True)
    network = QuantizedNetwork((1, 1, 1), (only,), timesteps=8, max_timesteps=64, pixel_bits=8, reset="soft")
    result = run(network, pixels(255), 6)
    rising = [32385, 64770, 97155, 129540, 131071, 131071]
    assert result.potentials[0].T.tolist() == [rising, [-potential for potential in rising]]
    assert result.spike_counts.shape == (1, 6, 0)


def three_layers() -> tuple[QuantizedNetwork, Array]:
    """Padding, stride, groups, dilation, two poolings and both kinds of bias, on images that are not square."""
    rng = np.random.default_rng(7)

    def weight(*shape: int) -> Array:
        return rng.integers(-40, 41, shape).astype(np.int32)

    first = Conv(weight(6, 1, 3, 2), bias=weight(6), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2)
    middle = Conv(weight(4, 6, 3, 2), padding=(1, 0), dilation=(1, 2), pool=(2, 2))
    per_neuron = rng.integers(-60, 61, middle.output_shape((6, 8, 6))).astype(np.int32)
    middle = Conv(middle.weight, per_neuron, padding=(1, 0), dilation=(1, 2), pool=(2, 2))
    layers = (
        layer(first, (9000, 4500), first=True),
        layer(middle, (150, 20)),
        layer(Dense(weight(5, 8), bias=weight(5), pool=(2, 1))),
    )
    network = QuantizedNetwork((2, 8, 10), layers, timesteps=8, max_timesteps=64, pixel_bits=8, reset="soft")
    return network, rng.integers(0, 256, (4, 2, 8, 10)).astype(np.uint8)


def test_without_trace_the_recordings_are_the_same(
    simulator: LavaBackend, run: Callable[..., RunResult], capfd: pytest.CaptureFixture[str]
) -> None:
    network, images = three_layers()
    traced = run(network, images, 3)
    plain = simulator.run(network, images, 3)
    assert plain.traces == ()
    np.testing.assert_array_equal(plain.potentials, traced.potentials)
    np.testing.assert_array_equal(plain.spike_counts, traced.spike_counts)
    np.testing.assert_array_equal(plain.synaptic_operations, traced.synaptic_operations)
    assert plain.seconds > 0
    assert plain.startup_seconds > 0
    assert capfd.readouterr().out == ""


@pytest.fixture(scope="module")
def side_by_side() -> Iterator[LavaBackend]:
    with LavaBackend(BackendOptions(lava_layout="layers"), batch_size=3) as backend:
        yield backend


def test_images_side_by_side_follow_their_hand_traces(side_by_side: LavaBackend) -> None:
    """Threshold 10, initial potential 5: the neuron of each image on its own, in presentations of 3 and of 2."""
    network, images = one_neuron(1, 0, 10, 5, "soft"), pixels(4, 0, 10, 3, 6)
    seen: list[tuple[int, int]] = []
    with progress_to(lambda *counts: seen.append(counts)):
        result = side_by_side.run(network, images, 7, trace=True)
    spikes = [
        [0, 1, 0, 1, 0, 0, 1],  # 9 13- 7 11- 5 9 13-
        [0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],  # 15- 15- ...
        [0, 1, 0, 0, 1, 0, 0],  # 8 11- 4 7 10- 3 6
        [1, 0, 1, 0, 1, 1, 0],  # 11- 7 13- 9 15- 11- 7
    ]
    potentials = [[9, 3, 7, 1, 5, 9, 3], [5] * 7, [5] * 7, [8, 1, 4, 7, 0, 3, 6], [1, 7, 3, 9, 5, 1, 7]]
    hidden, _ = result.traces
    assert hidden.spikes is not None
    assert hidden.spikes[:, :, 0].astype(int).tolist() == spikes
    assert hidden.potentials[:, :, 0].tolist() == potentials
    assert result.spike_counts[:, :, 0].tolist() == spikes
    assert result.synaptic_operations[:, :, 0].tolist() == spikes
    assert result.potentials[:, :, 0].tolist() == (3 * np.cumsum(spikes, axis=1)).tolist()
    assert seen == sorted(seen)
    assert {done for done, _ in seen} <= {0, 3, 5}
    assert seen[-1] == (5, 5)


def test_presentations_are_even_and_fit_into_memory() -> None:
    small, _ = three_layers()
    assert [lava_backend.fitting_batch_size(small, images) for images in (1, 64, 65, 100, 10_000)] == [
        1,
        64,
        33,
        50,
        64,
    ]
    wide = layer(Dense(np.zeros((2, 512 * 512), np.int8)), first=True)
    large = QuantizedNetwork((1, 512, 512), (wide,), timesteps=1, max_timesteps=1, pixel_bits=8, reset="soft")
    assert lava_backend.fitting_batch_size(large, 100) == 3


def test_progress_counts_images_of_whole_presentations() -> None:
    steps = Timing(images=5, batch_size=3, timesteps=4, layers=2, interval=4)
    assert steps.total == 10
    assert [steps.images_done(step) for step in range(11)] == [0] * 6 + [3] * 4 + [5]


SMALL = one_neuron(1, 0, 10, 0, "soft")


@pytest.mark.parametrize(
    ("images", "timesteps", "refusal"),
    [
        (pixels(1), 0, UsageError("0", where="timesteps", expected="1..1,048,576")),
        (pixels(1), 65, RangeError("65", where="timesteps", expected="1..64", hint="timesteps=65")),
        (pixels(1)[0], 1, DataError("(1, 1, 1)", where="images", expected="uint8 of shape (N, 1, 1, 1)")),
        (pixels(1) / 255, 1, DataError("float64", where="images", expected="uint8")),
    ],
)
def test_what_cannot_be_run_is_refused(
    images: Array, timesteps: int, refusal: LoihiConvertError, simulator: LavaBackend
) -> None:
    with pytest.raises(type(refusal)) as raised:
        simulator.run(SMALL, images, timesteps)
    for field in ("found", "where", "expected", "hint"):
        assert getattr(refusal, field) in getattr(raised.value, field)


# From here on, hosts that fail. Images enough for a minute, so that none ends by itself.
MANY = np.zeros((20_000, 1, 1, 1), np.uint8)
# Seconds, long enough for a busy machine. Nothing waits longer than it must.
DEADLINE = 30


@dataclass(frozen=True)
class Session:
    """What belongs to one host process; its process group, and the token in the names of its shared memory."""

    host: int
    token: str

    def alive(self) -> list[int]:
        """Processes of the group, the host first; a zombie is dead."""
        return sorted(
            pid for pid, (state, _, group) in process_table().items() if group == self.host and state not in "ZX"
        )

    def actors(self) -> list[int]:
        """The host's children: Lava's shared memory manager, one per Lava Process, the runtime service last."""
        table = process_table()
        return [
            pid
            for pid in self.alive()
            if table[pid][1] == self.host and "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()
        ]

    def shared_memory(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"*{self.token}*"))


def process_table() -> dict[int, tuple[str, int, int]]:
    """State, parent and process group of every process."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            table[int(entry.name)] = state, int(parent), int(group)
    return table


def session_in(temporary: Path) -> Session:
    """The host whose folder lies in ``temporary``."""
    for pid, (state, _, group) in process_table().items():
        # Arguments of other programs may be any bytes.
        line = Path(f"/proc/{pid}/cmdline").read_bytes() if pid == group and state != "Z" else b""
        arguments = os.fsdecode(line).split("\0")
        if "loihi_convert.backends.lava.host" in arguments and Path(arguments[-3]).parent == temporary:
            return Session(pid, arguments[-2])
    raise AssertionError("no Lava host is running")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which hosts make theirs; not in tmp_path, whose length a socket's name would not bear."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def assert_nothing_is_left(session: Session, temporary: Path) -> None:
    def left() -> tuple[object, ...]:
        return session.alive(), session.shared_memory(), list(temporary.iterdir())

    # A killed process may still be on its way out, and a host that lost its parent looks for it every 0.1 s.
    deadline = time.monotonic() + DEADLINE
    while any(left()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left() == ([], [], [])


class Saboteur:
    """A progress that does something to the running session once, and notes when."""

    def __init__(self, action: Callable[[Session], None], temporary: Path) -> None:
        self._action = action
        self._temporary = temporary
        self.session: Session | None = None
        self.at = 0.0

    def __call__(self, done: int, total: int) -> None:
        if self.session is None:
            self.session = session_in(self._temporary)
            assert len(self.session.actors()) == 7
            assert self.session.shared_memory()
            self.at = time.monotonic()
            self._action(self.session)


def kill_an_actor(session: Session) -> None:
    os.kill(session.actors()[-2], signal.SIGKILL)


def kill_the_runtime_service(session: Session) -> None:
    os.kill(session.actors()[-1], signal.SIGKILL)


def kill_the_host(session: Session) -> None:
    os.kill(session.host, signal.SIGKILL)


def stop_an_actor(session: Session) -> None:
    os.kill(session.actors()[-2], signal.SIGSTOP)


def interrupt(session: Session) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (kill_an_actor, BackendError, r"sim: .* a Lava process was killed by SIGKILL .*\. Run it again, or use"),
        (kill_the_runtime_service, BackendError, "a Lava process was killed by SIGKILL"),
        (kill_the_host, BackendError, "the Lava host process was killed by SIGKILL"),
        (stop_an_actor, BackendError, r"no progress for 2 s, after step \d+ of 20002"),
        (interrupt, KeyboardInterrupt, None),
    ],
)
def test_a_run_that_is_disturbed_ends_at_once_and_leaves_nothing(
    action: Callable[[Session], None], error: type[BaseException], message: str | None, temporary: Path
) -> None:
    saboteur = Saboteur(action, temporary)
    with LavaBackend() as backend:
        backend.run(SMALL, pixels(4), 1)
        # Only now, because importing Lava may take longer on a busy machine.
        backend._stall_seconds = 2 if action is stop_an_actor else 120
        with pytest.raises(error, match=message), progress_to(saboteur):
            backend.run(SMALL, MANY, 1)
        assert time.monotonic() - saboteur.at < DEADLINE
        assert saboteur.session is not None
        assert_nothing_is_left(saboteur.session, temporary)


@pytest.mark.parametrize("layout", ["processes", "layers"])
def test_an_error_in_a_model_is_reported_and_the_backend_can_be_used_again(
    layout: LavaLayout, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = three_layers()
    reserve = LavaRun._reserve

    def reserve_too_many_classes(run: LavaRun, name: str, dtype: type, shape: tuple[int, ...]) -> None:
        reserve(run, name, dtype, (*shape[:-1], shape[-1] + (name == "potentials")))

    with LavaBackend(BackendOptions(lava_layout=layout)) as backend:
        with monkeypatch.context() as patch:
            patch.setattr(LavaRun, "_reserve", reserve_too_many_classes)
            with pytest.raises(BackendError) as failed:
                backend.run(network, images, 4)
        assert re.search(r"ValueError: could not broadcast .* \(exchange.py, line \d+\)", failed.value.found)
        assert re.search(r"End of Lava's log:(\n .*)+ValueError: could not broadcast", failed.value.hint)
        assert list(temporary.iterdir()) == []
        oracle.assert_equal(network, images, backend.run(network, images, 4, trace=True), 4)
        session = session_in(temporary)
    assert_nothing_is_left(session, temporary)


@pytest.mark.parametrize("is_script", [False, True])
def test_a_host_dies_with_its_parent(is_script: bool, tmp_path: Path, temporary: Path) -> None:
    """Also if the interpreter is a script, which stays between the two."""
    netx.write(SMALL, tmp_path / "small.net")
    interpreter = tmp_path / "python.sh"
    interpreter.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    program = (
        "import sys, numpy; from loihi_convert import netx\n"
        "from loihi_convert.backends.backend import BackendOptions\n"
        "from loihi_convert.backends.lava.lava_backend import LavaBackend\n"
        "from loihi_convert.ground.progress import progress_to\n"
        "backend = LavaBackend(BackendOptions(lava_python=sys.argv[2] or None))\n"
        "with progress_to(lambda *_: print(flush=True)):\n"
        "    backend.run(netx.read(sys.argv[1]), numpy.zeros((20_000, 1, 1, 1), numpy.uint8), 1)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "small.net"), str(interpreter) if is_script else ""]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        session = session_in(temporary)
        assert session.shared_memory()
        parent.kill()
    assert_nothing_is_left(session, temporary)


def test_a_full_disk_is_noticed_before_the_run(temporary: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LavaBackend() as backend:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(PlatformError, match="temporary folder") as raised:
                backend.run(SMALL, MANY, 1)
            assert "TMPDIR" in raised.value.hint
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(temporary.iterdir()) == []


def test_a_pipe_may_have_any_file_number() -> None:
    """`select.select` refuses numbers from 1,024 on, which a program with many open files reaches."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = 1_100
    if hard != resource.RLIM_INFINITY and hard <= number:
        pytest.skip("this system allows fewer open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number + 1), hard))
    out, into = os.pipe()
    try:
        os.dup2(out, number)
        assert not host_process._is_readable(number, 0)
        os.write(into, b"a line")
        assert host_process._is_readable(number, 1)
    finally:
        for one in (out, into, number):
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
