"""`benchmark.py` without the compared libraries: operation counts, tables, and the result of a missing library."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import pytest
import torch
from torch import nn

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.chip import limits
from loihi_convert.errors import PlatformError, VerificationError
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.report.table import markdown_table

pytestmark = pytest.mark.slow

PEERS = Path(__file__).parents[1] / "tools" / "peers"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PEERS))
    yield importlib.import_module("benchmark")
    sys.path.remove(str(PEERS))


def tiny_network() -> QuantizedNetwork:
    """1 x 4 x 4, two 3 x 3 convolutions of padding 1 (4 channels; 2 in 2 groups after 2 x 2 pooling), dense."""
    random = np.random.default_rng(0)

    def layer(name: str, synapse: Conv | Dense, largest: int = 1, threshold: int = 40) -> QuantizedLayer:
        channels = synapse.channels
        neuron = IntegerNeuron(np.full(channels, threshold, np.int32), np.full(channels, threshold // 2, np.int32))
        return QuantizedLayer(name, synapse, None if name == "fc" else neuron, np.ones(channels), largest)

    def weights(*shape: int) -> np.ndarray:
        return random.integers(-20, 21, shape).astype(np.int32)

    layers = (
        layer("conv1", Conv(weights(4, 1, 3, 3), np.array([300, 0, -7, 9], np.int32), padding=(1, 1)), 255, 9000),
        layer("conv2", Conv(weights(2, 2, 3, 3), weights(2, 2, 2), padding=(1, 1), groups=2, pool=(2, 2))),
        layer("fc", Dense(weights(3, 8))),
    )
    return QuantizedNetwork((1, 4, 4), layers, timesteps=8, max_timesteps=8, pixel_bits=8, reset="soft")


def test_the_limit_counts_every_product_once(benchmark: ModuleType) -> None:
    gemm = importlib.import_module("simulators.gemm")
    first, second, last = gemm.products(tiny_network(), timesteps=5)
    # 4 channels x 9 weights at 16 positions, once, because the image is constant.
    assert first.multiply_accumulates == 4 * 9 * 16
    # 2 x 2 positions after the pooling; each of 2 channels reads the 2 x 9 weights of its group; 5 steps.
    assert second.multiply_accumulates == 2 * 18 * 4 * 5
    # 2 x 2 x 2 neurons to 3 outputs; 5 steps.
    assert last.multiply_accumulates == 8 * 3 * 5
    job = importlib.import_module("simulators").Job(Path("unused"), 5, (2,))
    job.__dict__["network"] = tiny_network()
    for limit in (gemm, importlib.import_module("simulators.gemm_int8")):
        runners = limit.candidates(job)
        assert len(runners) == 4
        for runner in runners.values():
            seconds, potentials = runner(np.zeros((5, 1, 4, 4), np.uint8))
            assert seconds > 0
            assert potentials is None


def test_what_every_library_gets_is_the_network(benchmark: ModuleType) -> None:
    """The torch modules and channel values that all of them share, stepped by hand, equal `ref`."""
    peers = importlib.import_module("simulators")
    network, steps = tiny_network(), 8
    images = np.random.default_rng(1).integers(0, 256, (6, 1, 4, 4)).astype(np.uint8)
    hidden = list(zip(network.spiking_layers, network.shapes, strict=False))
    first, *later = (peers.synapse_module(layer.synapse) for layer in network.layers)
    levels = [peers.over_map(peers.thresholds(layer), shape) for layer, shape in hidden]
    potentials = [peers.over_map(peers.initial_potentials(layer), shape) for layer, shape in hidden]
    constant = first(torch.from_numpy(images.astype(np.float32)))
    output = torch.zeros(6, 3)
    for _ in range(steps):
        current = constant
        for index, synapse in enumerate(later):
            potential = potentials[index] + current
            spikes = (potential >= levels[index]).float()
            potentials[index] = potential - spikes * levels[index]
            current = synapse(spikes)
        output += current
    expected = run_network(network, images, steps)
    assert expected.spike_counts.sum(axis=(0, 1)).min() > 0
    assert np.array_equal(output.numpy(), expected.potentials[:, -1])


def test_plain_torch_computes_the_network(benchmark: ModuleType) -> None:
    plain = importlib.import_module("simulators.torch_graph")
    images = np.random.default_rng(1).integers(0, 256, (6, 1, 4, 4)).astype(np.uint8)
    expected = run_network(tiny_network(), images, 8).potentials[:, -1]
    for order in (torch.contiguous_format, torch.channels_last):
        batch = plain.file_batch(tiny_network(), 8, order)
        # The second batch starts as the first one did.
        for _ in range(2):
            assert np.array_equal(batch(torch.from_numpy(images.astype(np.float32))).numpy(), expected)


class Residual(nn.Module):
    """A skip connection, and one ReLU module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu, self.readout = nn.ReLU(), nn.Linear(3 * 25, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.first(images))
        maps = self.relu(self.second(maps) + maps)
        return self.readout(maps.flatten(1))


def test_a_cnn_over_all_steps_at_once_is_the_cnn_step_by_step(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, plain = (importlib.import_module(f"simulators.{name}") for name in ("graph", "torch_graph"))
    torch.manual_seed(1)
    model = Residual().eval()
    monkeypatch.setattr(graph, "built", lambda arch: model)
    images = torch.rand(2, 1, 5, 5) * 4
    with torch.inference_mode():
        found = graph.Spiking("", plain.fire, 6)(images)
        potentials = [torch.zeros(2, 3, 5, 5), torch.zeros(2, 3, 5, 5)]
        expected = torch.zeros(2, 4)
        for _ in range(6):
            potentials[0] += model.first(images)
            early = (potentials[0] >= 1).float()
            potentials[1] += model.second(early) + early
            late = (potentials[1] >= 1).float()
            potentials[0] -= early
            potentials[1] -= late
            expected += model.readout(late.flatten(1))
    assert 0 < float(late.mean()) < 1
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


def test_a_channel_that_never_fires_is_out_of_reach(benchmark: ModuleType) -> None:
    peers = importlib.import_module("simulators")
    layer = tiny_network().layers[0]
    threshold = np.array([1, 2, 3, limits.NEVER_FIRES], np.int32)
    silent = QuantizedLayer("conv1", layer.synapse, IntegerNeuron(threshold, 0 * threshold), layer.scale, 255)
    found = peers.thresholds(silent).tolist()
    assert found[:3] == [1, 2, 3]
    # More than T = 2^20 steps of the largest current.
    assert found[3] >= 2**20 * limits.POTENTIAL_LIMIT


def test_medians_minima_and_maxima(benchmark: ModuleType) -> None:
    tables = importlib.import_module("benchmark_tables")
    assert tables.spread([3.0, 1.0, 2.0]) == "2.00 (1.00..3.00)"
    assert tables.spread([4, 1, 2, 3]) == "2.50 (1.00..4.00)"
    assert tables.spread([12345.6]) == "12,346 (12,346..12,346)"
    assert tables.spread([0.01234, 0.0]) == "0.00617 (0.00..0.0123)"
    assert tables.spread([]) == ""
    assert markdown_table(("a", "bcde"), [("12345", "")]) == "| a     | bcde |\n| ----- | ---- |\n| 12345 |      |\n"


def test_a_limit_on_the_instructions_is_part_of_the_conditions(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = importlib.import_module("benchmark_tables")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    unlimited = tables.conditions(2)["machine"]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert tables.conditions(2)["machine"] == f"{unlimited}; ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI"


def test_ratios_are_taken_repeat_by_repeat(benchmark: ModuleType) -> None:
    peers, against_peers = (importlib.import_module(name) for name in ("simulators", "against_peers"))
    reference = against_peers.Row(peers.PEERS[0], 100, [1.0, 2.0, 4.0])
    limit, faster_limit = (against_peers.Row(peer, 100, [0.5, 2.0, 1.0]) for peer in peers.PEERS if peer.limit)
    # Images per second: 100, 50, 25 of ref against 10, 2.5, 5.
    slow = against_peers.Row(
        peers.PEERS[3], 10, [1.0, 4.0, 2.0], 3 * 2**29, versions={"snntorch": "1.0", "torch": "2"}, choice="x"
    )
    against_peers.compare(slow, np.array([[1, 2], [5, 0], [0, 1]]), np.array([[1, 2], [4, 0], [1, 0]]))
    report = against_peers.peers_report([reference, slow, limit, faster_limit])
    (row,) = (line for line in report.splitlines() if line.startswith("| snnTorch"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["snnTorch 1.0", "5.00 (2.50..10.0)", "10.0 (5.00..20.0)", "1.50", "x", "2 / 10", "1 / 10"]
    for kind in ("float32", "int8"):
        assert f"`ref` reaches 50.0 (25.0..100) % of the limit given by {kind} matrix products." in report


def test_ref_must_be_so_many_times_as_fast(benchmark: ModuleType) -> None:
    """At its best, 100 images/s, beside 40 at the other's best; and only if both compute the same."""
    peers, against_peers = (importlib.import_module(name) for name in ("simulators", "against_peers"))
    plain = next(peer for peer in peers.PEERS if peer.module == "torch_graph")
    reference = against_peers.Row(peers.PEERS[0], 100, [1.0, 9.0])
    other = against_peers.Row(plain, 100, [9.0, 2.5], same_class=100, equal_potentials=100)
    beside = [
        against_peers.Row(peer, 100, failure="gone") for peer in peers.PEERS if peer.limit or peer.runs_few_images
    ]
    against_peers.require_ratio([reference, *beside, other], 2.5)
    with pytest.raises(VerificationError, match=r"ref is only 2.50 times as fast") as raised:
        against_peers.require_ratio([reference, other], 2.6)
    assert (raised.value.where, raised.value.expected) == ("torch", "2.6")
    for field, value in {"equal_potentials": 99, "same_class": None, "failure": "gone"}.items():
        with pytest.raises(VerificationError, match=r"not measured: gone|another network"):
            against_peers.require_ratio([reference, replace(other, **{field: value})], 1.0)


def test_a_library_that_is_not_there_gives_a_row_that_says_so(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, worker = (importlib.import_module(f"simulators.{name}") for name in ("process", "worker"))
    peers, against_peers = (importlib.import_module(name) for name in ("simulators", "against_peers"))
    index, peer = next((index, peer) for index, peer in enumerate(peers.PEERS) if peer.module == "snntorch")
    # An environment with a failed installation: the tests' own environment, which does not contain snnTorch.
    monkeypatch.setattr(process, "python_with", lambda _: [sys.executable])
    netx.write(tiny_network(), tmp_path / "tiny.net")
    np.save(tmp_path / "images.npy", np.random.default_rng(2).integers(0, 256, (4, 1, 4, 4)).astype(np.uint8))
    rows, requests = [], []
    for number in (0, index):
        rows.append(against_peers.Row(peers.PEERS[number], 4))
        files = (tmp_path / name for name in ("tiny.net", "images.npy", f"{number}.npy"))
        requests.append(worker.Request(number, *map(str, files), timesteps=8, batch_sizes=(), threads=1))
    against_peers.run_interleaved(rows, requests, repeats=2, patience=100)
    assert len(rows[0].seconds) == 2
    assert rows[1].seconds == []
    assert np.array_equal(
        np.load(tmp_path / "0.npy"),
        run_network(tiny_network(), np.load(tmp_path / "images.npy"), 8).potentials[:, -1],
    )
    report = against_peers.peers_report(rows)
    assert f"| {peer.name} | not measured" in report
    assert "not measured: snnTorch: ended with 1: " in report
    assert "No module named 'snntorch'" in report


def test_a_failure_is_named_by_the_exceptions_of_all_processes(benchmark: ModuleType) -> None:
    reason = importlib.import_module("simulators.process").reason
    lines = (
        *("Traceback (most recent call last):", '  File "utils.py", line 274, in conv_scipy', "    a % b"),
        *("OverflowError: Python integer 128 out of bounds for int8", "", "a.b.RuntimeError: 2 Exception(s) occurred"),
    )
    expected = "OverflowError: Python integer 128 out of bounds for int8; a.b.RuntimeError: 2 Exception(s) occurred"
    assert reason("\n".join((*lines[:4], *lines))) == expected
    assert reason("1\n2\n\n3\n4\n") == "2 3 4"
    assert reason("") == "no output"


def test_a_single_variant_has_run_all_images_before_it_is_measured(benchmark: ModuleType) -> None:
    fastest = importlib.import_module("simulators.worker").fastest
    images, ran = np.zeros((100, 1, 2, 2), np.uint8), []

    def runner(name: str, seconds: float) -> object:
        return lambda images: (ran.append((name, len(images))), (seconds, None))[1]

    assert fastest({"its own": runner("its own", 1)}, images, ()) == "its own"
    assert ran == [("its own", 100)]
    ran.clear()
    assert fastest({"slow": runner("slow", 2), "fast": runner("fast", 1)}, images, (4, 64)) == "fast"
    assert ran == [("slow", 16), ("slow", 64), ("fast", 16), ("fast", 64)]


def test_peak_memory_is_that_of_the_process_itself(benchmark: ModuleType) -> None:
    """In another process, as this one may have had more memory before."""
    process, worker = (importlib.import_module(f"simulators.{name}") for name in ("process", "worker"))
    ballast = np.ones(2**25)
    code = (
        "import numpy as np; from simulators.worker import peak_memory; "
        "small = peak_memory(); ballast = np.ones(2**25); print(small, peak_memory())"
    )
    done = subprocess.run(
        [*process.python_with(None), "-c", code], cwd=PEERS, capture_output=True, text=True, check=True
    )
    small, large = map(int, done.stdout.split())
    assert large >= small + ballast.nbytes // 2
    # The parent's 256 MiB are not counted.
    assert small < worker.peak_memory() - ballast.nbytes // 2


def test_without_uv_it_says_what_is_missing(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    process = importlib.import_module("simulators.process")
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        PlatformError, match="missing-package==1: not installed; uv, which would install it, is missing"
    ):
        process.python_with("missing-package==1")
    assert process.python_with(None) == [sys.executable]
    assert process.python_with(f"numpy=={np.__version__}") == [sys.executable]


def test_a_random_network_of_any_width_can_be_exported(benchmark: ModuleType, tmp_path: Path) -> None:
    cost, subject = (importlib.import_module(name) for name in ("cost", "subject"))
    splits = noise()
    model = cost.two_convolutions(2, splits)
    subject.export_untrained(model, splits, 4, tmp_path / "width.net")
    assert netx.read(tmp_path / "width.net").shapes[:2] == ((2, 24, 24), (4, 8, 8))
    subject.export_untrained(cost.convolutions(3, splits), splits, 4, tmp_path / "depth.net")
    assert netx.read(tmp_path / "depth.net").shapes == (*[(32, 28, 28)] * 3, (3,))


@pytest.mark.parametrize(("asked", "used"), [((), 4), (("-T", "3"), 3)])
def test_cost_of_a_file_that_is_proven_for_few_steps(
    benchmark: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: tuple[str, ...],
    used: int,
) -> None:
    proven_for(tmp_path / "tiny.net", 4)
    ran = []

    class FileRun:
        ready: Final = {"idle_bytes": 1}

        def __init__(self, peer: object, request: object, patience: float) -> None:
            ran.append((request.timesteps, request.threads))

        def __enter__(self) -> FileRun:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def repeat(self) -> dict[str, float]:
            return {"seconds": 1.0, "peak_bytes": 1}

    monkeypatch.setattr(importlib.import_module("cost"), "Worker", FileRun)
    chosen = {"timesteps": "2,8", "images": "5", "widths": "", "depths": "", "threads": "3"}
    words = [word for name, value in chosen.items() for word in (f"--sweep-{name}", value)]
    run = ["", "cost", str(tmp_path / "tiny.net"), *asked, *words, "--repeats", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", run)
    assert benchmark.main() == 0
    assert ran == [(2, 1), (used, 1), (used, 3)]
    assert "T = 8: left out" in capsys.readouterr().err


def test_cost_of_a_network_on_noise(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the default curves only those of other networks are left out."""
    words = "cost --network digits-cnn --data noise --input-shape 1,8,8 --images 4 --repeats 1 --threads 1"
    chosen = {"timesteps": "1", "images": "", "threads": ""}
    swept = [word for name, value in chosen.items() for word in (f"--sweep-{name}", value)]
    monkeypatch.setattr(sys, "argv", ["", *words.split(), *swept])
    assert benchmark.main() == 0
    done = capsys.readouterr()
    assert "widths and depths: left out" in done.err
    assert "4 images" in done.out
    assert "depth" not in done.out.partition("\n")[2]


@pytest.mark.parametrize("words", [("-T", "5"), ("--images", "0")])
def test_cost_refuses_what_cannot_run_before_it_measures(
    benchmark: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    proven_for(tmp_path / "tiny.net", 4)

    def measured(*arguments: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(importlib.import_module("cost"), "Worker", measured)
    monkeypatch.setattr(
        sys, "argv", ["", "cost", str(tmp_path / "tiny.net"), *words, "--sweep-widths", "", "--sweep-depths", ""]
    )
    assert benchmark.main() == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_a_ratio_is_not_required_of_an_own_cnn(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.read_options(["peers", "--arch", "my_nets:make_cnn", "--at-least", "1.3"])
    assert caught.value.code == 2
    assert "--at-least needs a file or --network" in capsys.readouterr().err


def test_peers_get_no_poisson_spikes(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proven_for(tmp_path / "tiny.net", 4, poisson_seed=0)
    monkeypatch.setattr(
        importlib.import_module("against_peers"), "run_interleaved", lambda *arguments: pytest.fail("measured")
    )
    monkeypatch.setattr(sys, "argv", ["", "peers", str(tmp_path / "tiny.net")])
    assert benchmark.main() == 2
    assert capsys.readouterr().err == (
        "error: tiny.net: takes Poisson spikes, but the other programs take pixels. Export it with --input constant.\n"
    )


def proven_for(path: Path, timesteps: int, *, poisson_seed: int | None = None) -> None:
    """Write a network for digits whose potentials are proven to fit for ``timesteps`` steps."""
    random = np.random.default_rng(4)
    neuron = IntegerNeuron(np.full(5, 900, np.int32), np.full(5, 450, np.int32))
    first = Dense(random.integers(-20, 21, (5, 64)).astype(np.int32))
    last = Dense(random.integers(-20, 21, (10, 5)).astype(np.int32))
    layers = (
        QuantizedLayer("fc1", first, neuron, np.ones(5), 255 if poisson_seed is None else 1),
        QuantizedLayer("fc2", last, None, np.ones(10), 1),
    )
    network = QuantizedNetwork(
        *((1, 8, 8), layers),
        timesteps=timesteps,
        max_timesteps=timesteps,
        pixel_bits=8,
        reset="soft",
        provenance={"model": {"data": "digits"}},
        poisson_seed=poisson_seed,
    )
    netx.write(network, path)


def noise() -> object:
    """Return 28 x 28 noise instead of MNIST."""
    from loihi_convert.data.dataset import Dataset, DataSplits

    images = np.random.default_rng(3).integers(0, 256, (12, 1, 28, 28)).astype(np.uint8)
    data = Dataset(images, np.zeros(12, np.int64))
    return DataSplits("noise", ("a", "b", "c"), data, data, data, data)
