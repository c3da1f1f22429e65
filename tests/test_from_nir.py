"""NIR files as input of `export`: their spikes, what is refused, and the command line."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from support.command_line import invoker
from support.nir_graphs import executed

import loihi_convert as lc
from loihi_convert import netx
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions
from loihi_convert.data import load_data
from loihi_convert.errors import CheckpointError, InputError, PlatformError, UnsupportedModelError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Readout, Reset
from loihi_convert.ir.network import SpikingNetwork
from loihi_convert.nir.reader import read_nir
from loihi_convert.pipeline.converting import converted, stored_neurons
from loihi_convert.reading.source import Source, open_source
from loihi_convert.simulation.layers import Recording
from loihi_convert.simulation.simulator import Block, Simulator

SHAPE = (2, 8, 8)
STEPS = 7
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def neurons(thresholds: Any, shape: tuple[int, ...], r: float = 1.0, v_reset: float = 0.0) -> nir.IF:
    values = np.broadcast_to(np.reshape(thresholds, (-1, *(1,) * (len(shape) - 1))), shape).astype(np.float64)
    return nir.IF(np.full(shape, r), values.copy(), np.full(shape, v_reset))


def convolution(rng: Any, out: int, channels: int, groups: int = 1, side: int = 8, **options: Any) -> nir.Conv2d:
    weight = rng.normal(0.1, 0.4, (out, channels // groups, 3, 3))
    options = {"stride": 1, "padding": 1, "dilation": 1, **options}
    return nir.Conv2d((side, side), weight, groups=groups, bias=rng.normal(0, 0.1, out), **options)


def pooling(kind: Any, side: int = 2) -> Any:
    return kind(np.array([side, side]), np.array([side, side]), np.array([0, 0]))


def flatten() -> nir.Flatten:
    return nir.Flatten(None, 0, -1)


def chain(rng: Any, *, is_spiking: bool) -> list[Any]:
    """Every kind of node that is read; thresholds per channel."""
    nodes = [
        nir.Input({"input": np.array(SHAPE)}),
        convolution(rng, 4, 2, groups=2),
        neurons([0.5, 0.75, 1.25, 2.0], (4, 8, 8)),
        pooling(nir.SumPool2d),
        convolution(rng, 3, 4, side=4),
        neurons([1.5, 3.0, 2.5], (3, 4, 4)),
        pooling(nir.AvgPool2d),
        flatten(),
        nir.Linear(rng.normal(0.1, 0.6, (6, 12))),
        neurons([0.75, 0.5, 0.25, 0.3, 0.4, 0.6], (6,)),
        nir.Affine(rng.normal(0.1, 0.6, (5, 6)), rng.normal(0, 0.1, 5)),
    ]
    return [*nodes, neurons([0.5, 1.0, 0.75, 0.25, 0.6], (5,))] if is_spiking else [*nodes, nir.I(np.ones(5))]


def written(
    nodes: list[Any], name: str = "model.nir", metadata: dict[str, Any] | None = None, prefix: str = "n"
) -> Path:
    """A file with ``nodes`` in a chain."""
    names = [f"{prefix}{index}" for index in range(len(nodes))]
    if not isinstance(nodes[-1], nir.Output):
        nodes, names = [*nodes, nir.Output({"output": np.array([1])})], [*names, "out"]
    edges = list(itertools.pairwise(names))
    graph = nir.NIRGraph(dict(zip(names, nodes, strict=True)), edges, metadata or {}, type_check=False)
    content = graph.to_dict()
    for node in content["nodes"].values():
        # nir cannot write a shape that is left open.
        if node["type"] == "Flatten":
            del node["input_type"]
    graph.to_dict = lambda: content
    nir.write(name, graph)
    return Path(name)


def images(count: int = 3) -> Array:
    return np.random.default_rng(5).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def float_spikes(network: SpikingNetwork, pixels: Array, steps: int = STEPS) -> list[Array]:
    """Spikes of each spiking layer, ``(N, T, *shape)``."""
    found = [
        np.zeros((len(pixels), steps, *shape))
        for shape, layer in zip(network.shapes, network.layers, strict=True)
        if layer.neuron is not None
    ]

    def take(block: Block) -> None:
        for kept, layer in zip(found, block.layers, strict=False):
            maps = np.moveaxis(layer.spikes, -1, 2)
            kept[block.images, block.steps] = maps.reshape(maps.shape[:2] + kept.shape[2:])

    Simulator(network, Recording(spikes=True)).run(pixels, steps, take)
    return found


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("is_spiking", [False, True])
def test_the_float_network_spikes_as_the_file(is_spiking: bool, reset: Reset) -> None:
    nodes = chain(np.random.default_rng(3), is_spiking=is_spiking)
    source = open_source(written(nodes), data="mine")
    assert source.neurons == ("spikes" if is_spiking else "potential")
    options = BalanceOptions(method="qcfs", reset=reset, initial_potential="zero", readout=source.neurons)
    spiking = balance(source.network, images(), STEPS, options)
    for layer in spiking.layers:
        if layer.neuron is not None:
            # A spike adds 1 to the input of the next layer, as in NIR.
            assert (layer.neuron.threshold == 1).all()
            assert (layer.neuron.amplitude == 1).all()
            assert (layer.neuron.initial_potential == 0).all()
    graph, found = nir.read("model.nir", type_check=False), float_spikes(spiking, images())
    count = 0
    for index, image in enumerate(images()):
        done = executed(graph, np.repeat(image[None] / 255, STEPS, axis=0), reset)
        expected = [done[name] for name, node in graph.nodes.items() if isinstance(node, nir.IF)]
        expected.sort(key=lambda values: -values[0].size)
        assert len(expected) == len(found)
        for layer_spikes, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(layer_spikes[index], wanted)
            count += int(wanted.sum())
    assert count > 1000


def test_a_file_of_spikingjelly_gives_the_spikes_of_spikingjelly() -> None:
    """SpikingJelly 2.0.0 wrote the file and computed the spikes of its output, ``(N, T, 10)``, seed 0::

    Conv2d(1, 4, 3, padding=1), IFNode(0.6), AvgPool2d(2), Flatten(), Linear(64, 10), IFNode(0.35)
    nir.write("spikingjelly.nir", export_to_nir(net, torch.zeros(1, 1, 8, 8)))
    """
    with np.load(GOLDEN / "spikingjelly.npz") as file:
        golden = dict(file)
    source = open_source(GOLDEN / "spikingjelly.nir", data="mine")
    assert "r = 10000 is read as 1 / dt: one step adds the whole input." in source.notes
    options = replace(stored_neurons(source, BalanceOptions()), method="qcfs")
    spiking = balance(source.network, golden["images"], 8, options)
    *_, found = float_spikes(spiking, golden["images"], steps=8)
    assert golden["spikes"].sum() == 77
    np.testing.assert_array_equal(found, golden["spikes"])


def test_integers_of_a_hand_made_file() -> None:
    # V = 0.5 a step, threshold 1.25: 0.5, 1.0, 1.5 fires; hard reset: every third step. Soft: after 3, 5, 8 steps.
    nodes = [
        nir.Input({"input": np.array([1, 1, 1])}),
        flatten(),
        nir.Linear(np.array([[0.5]])),
        neurons([1.25], (1,)),
        nir.Linear(np.array([[1.0]])),
        neurons([0.5], (1,)),
    ]
    source = open_source(written(nodes), data="mine", task="classification")
    white = np.full((40, 1, 1, 1), 255, np.uint8)
    for reset, steps in (("hard", [3, 6, 9]), ("soft", [3, 5, 8])):
        options = BalanceOptions(reset=reset, readout="spikes")
        done = converted(source, white, 9, ConversionOptions(options))
        assert done.spiking.provenance.balance.initial_potential == "zero"
        from loihi_convert.backends.reference import run_network

        spikes = run_network(done.quantized, white[:1], 9, trace=True).traces[0].spikes
        assert spikes is not None
        assert (np.flatnonzero(spikes[0].ravel()) + 1).tolist() == steps


def test_the_files_thresholds_are_kept_by_default() -> None:
    source = open_source(written(chain(np.random.default_rng(3), is_spiking=True)), data="mine")
    options = stored_neurons(source, BalanceOptions())
    assert (options.reset, options.readout) == ("hard", "spikes")
    done = converted(source, images(40), 4, ConversionOptions(options))
    assert any("its thresholds are kept" in note for note in done.notes)
    assert done.quantized.readout == "spikes"
    for layer in done.quantized.layers:
        assert layer.balanced is not None
        assert (layer.balanced.threshold == 1).all()
    # Options that say nothing of reset and readout change neither.
    for said in (BalanceOptions(), BalanceOptions(method="auto"), BalanceOptions(bias_correction=False)):
        again = converted(source, images(40), 4, ConversionOptions(said)).quantized
        assert (again.reset, again.readout) == ("hard", "spikes")
    more = source.with_skip_copies(2).network
    assert [layer.threshold is None for layer in more.layers] == [
        layer.threshold is None for layer in source.network.layers
    ]
    plain = Source.from_module(source.model, SHAPE)
    assert stored_neurons(plain, BalanceOptions()) == BalanceOptions()


@pytest.mark.filterwarnings("ignore:the quantized network only agrees")
@pytest.mark.parametrize(("threshold", "is_raised"), [(1.0, False), (1 / 300, True)])
def test_thresholds_that_are_raised_to_one_are_named(threshold: float, is_raised: bool) -> None:
    """Two weights of 1 and 0.5 at the most have units of 1 / 127 or more: 1 / 300 is less than half of that."""
    nodes = [
        nir.Input({"input": np.array([1, 1, 1])}),
        flatten(),
        nir.Linear(np.array([[1.0]])),
        neurons([1.0], (1,)),
        nir.Linear(np.array([[1.0], [0.5]])),
        neurons([threshold, 1.0], (2,)),
        nir.Linear(np.eye(2)),
    ]
    source = open_source(written(nodes), data="mine", task="classification")
    white = np.full((40, 1, 1, 1), 255, np.uint8)
    done = converted(source, white, 4, ConversionOptions(stored_neurons(source, BalanceOptions())))
    raised = [note for note in done.notes if "raised to 1: n4 up to " in note]
    assert len(raised) == is_raised


@pytest.mark.parametrize("readout", ["spikes", "potential"])
def test_the_potentials_of_output_neurons_are_expected_spike_counts(readout: Readout) -> None:
    """Currents of 1 and 1 a step, thresholds 0.5 and 2: the potentials after 4 steps are 4 / 0.5 and 4 / 2."""
    nodes = [
        nir.Input({"input": np.array([1, 1, 1])}),
        flatten(),
        nir.Linear(np.array([[1.0]])),
        neurons([1.0], (1,)),
        nir.Linear(np.array([[1.0], [1.0]])),
        neurons([0.5, 2.0], (2,)),
    ]
    source = open_source(written(nodes), data="mine", task="classification")
    white = np.full((40, 1, 1, 1), 255, np.uint8)
    options = stored_neurons(source, BalanceOptions(readout=readout))
    done = converted(source, white, 4, ConversionOptions(options))
    said = any("potentials are divided by its thresholds: the expected spike counts" in note for note in done.notes)
    assert said == (readout == "potential")
    if said:
        from loihi_convert.backends.reference import run_network

        potentials = run_network(done.quantized, white[:1], 4).potentials[0, -1]
        np.testing.assert_allclose(potentials * done.quantized.layers[-1].scale, [8, 2], rtol=0.02)


def test_layers_that_have_no_neurons_in_the_file_are_named() -> None:
    """A pooling that drops the border of 7 x 7 maps is not part of a convolution with padding."""
    rng = np.random.default_rng(3)
    nodes = [
        nir.Input({"input": np.array([2, 7, 7])}),
        convolution(rng, 4, 2, side=7),
        neurons(1.0, (4, 7, 7)),
        pooling(nir.AvgPool2d),
        convolution(rng, 3, 4, side=3),
        neurons(1.0, (3, 3, 3)),
        flatten(),
        nir.Linear(rng.normal(0.1, 0.6, (5, 27))),
    ]
    source = open_source(written(nodes, prefix=""), data="mine")
    assert [layer.name for layer in source.network.layers] == ["1", "3", "4", "7"]
    pixels = rng.integers(0, 256, (40, 2, 7, 7)).astype(np.uint8)
    done = converted(source, pixels, 4, ConversionOptions(stored_neurons(source, BalanceOptions())))
    assert any("layers without neurons in the file" in note and ": layer 3." in note for note in done.notes)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"method": "percentile"}, "method"),
        ({"alpha": 0.5}, "alpha"),
        ({"amplitude": "literal"}, "amplitude"),
    ],
)
def test_options_that_would_replace_the_thresholds_are_refused(options: dict[str, Any], where: str) -> None:
    source = open_source(written(chain(np.random.default_rng(3), is_spiking=False)), data="mine")
    with pytest.raises(UsageError) as caught:
        converted(source, images(40), 4, ConversionOptions(BalanceOptions(reset="hard", **options)))
    assert caught.value.where == where
    assert "keeps its thresholds" in caught.value.expected


def with_one(*nodes: Any) -> list[Any]:
    """A chain with ``nodes`` between the input, (1, 4, 4), and a linear layer."""
    return [nir.Input({"input": np.array([1, 4, 4])}), *nodes, flatten(), nir.Linear(np.ones((2, 16)))]


def changed(**values: Any) -> nir.Conv2d:
    """A convolution with ``values`` that the package ``nir`` does not check in a file."""
    node = convolution(RNG, 1, 1, side=4)
    vars(node).update(values)
    return node


def pair() -> nir.Conv2d:
    """A convolution with two outputs."""
    return convolution(RNG, 2, 1, side=4)


def spiking(shape: tuple[int, ...]) -> nir.IF:
    """Neurons whose parameters have ``shape``."""
    return nir.IF(*(fill(shape) for fill in (np.ones, np.ones, np.zeros)))


RNG = np.random.default_rng(0)
CONV = convolution(RNG, 1, 1, side=4)
FIRES = neurons([1.0], (1, 4, 4))
WITHIN = nir.IF(np.ones((1, 4, 4)), 1.0 + np.arange(16.0).reshape(1, 4, 4))


REFUSED: dict[str, tuple[list[Any], str, str]] = {
    "another kind": (with_one(CONV, nir.LIF(*np.ones((4, 1, 4, 4)))), "n2", "LIF is not read"),
    "an I inside": (with_one(CONV, nir.I(np.ones((1, 4, 4)))), "n2", "I is not read"),
    "no neurons": (with_one(CONV), "NIR graph", "has no IF neurons"),
    "no synapse": (with_one(FIRES), "n1", "does not follow a synapse"),
    "reset": (with_one(CONV, neurons([1], (1, 4, 4), v_reset=-0.5)), "n2", "resets to another"),
    "threshold": (with_one(CONV, neurons([0], (1, 4, 4))), "n2", "has a threshold of 0"),
    "infinity": (with_one(CONV, neurons([np.inf], (1, 4, 4))), "n2", "has a threshold of inf"),
    "in a channel": (with_one(CONV, WITHIN), "n2", "has thresholds (1, 4, 4)"),
    # NumPy would take them for one per column.
    **{
        f"thresholds {shape}": (with_one(pair(), spiking(shape)), "n2", f"has thresholds {shape}")
        for shape in ((4,), (2, 4), (4, 2, 4), (2, 2, 4, 4))
    },
    **{
        f"{name} {np.shape(value)} {value if np.size(value) < 3 else ''}": (
            with_one(changed(**{name: value}), spiking((1,))),
            "n1",
            "Conv2d c",
        )
        for name, value in (
            ("weight", np.ones((2, 3, 3))),
            ("weight", np.ones((2, 1, 3, 3, 3))),
            ("groups", 2),
            ("groups", 0),
            ("dilation", (-1, -1)),
            ("padding", (-1, 0)),
            ("bias", np.ones(2)),
        )
    },
    "same": (with_one(convolution(RNG, 1, 1, padding="same", stride=2), FIRES), "n1", "Conv2d cannot be applied"),
    "pool": (with_one(CONV, FIRES, pooling(nir.AvgPool2d, side=0)), "n3", "AvgPool2d cannot be applied"),
    "r": (with_one(CONV, FIRES, CONV, neurons([1], (1, 4, 4), r=2)), "NIR graph", "has r = 1, 2"),
    "r < 0": (with_one(CONV, neurons([1], (1, 4, 4), r=-1)), "NIR graph", "has r = -1"),
    "input": ([nir.Input({"input": np.array([4, 4])}), CONV, FIRES], "n1", "Conv2d cannot be applied"),
    "text": ([nir.Input({"input": "text"}), CONV, FIRES], "n0", "Input cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals(kind: str) -> None:
    nodes, where, found = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        read_nir(written(nodes), None)
    assert caught.value.where == where
    assert found in caught.value.found


@pytest.mark.parametrize(
    "thresholds",
    [
        np.array([2.0, 4.0]),
        np.array([2.0, 4.0]).reshape(2, 1, 1),
        np.broadcast_to(np.array([2.0, 4.0]).reshape(2, 1, 1), (2, 4, 4)),
        np.broadcast_to(np.array([2.0, 4.0]).reshape(2, 1, 1), (1, 2, 4, 4)),
        np.array([2.0]),
    ],
)
def test_thresholds_of_every_shape(thresholds: Array) -> None:
    node, conv = nir.IF(np.ones_like(thresholds), thresholds.copy(), np.zeros_like(thresholds)), pair()
    model, *_ = read_nir(written([*with_one(conv, node)[:-1], nir.Linear(np.ones((2, 32)))]), None)
    expected = conv.weight / np.broadcast_to(thresholds.ravel()[:: max(1, thresholds.size // 2)], 2).reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(next(model.buffers()).numpy(), expected.astype(np.float32))


def test_graphs_that_are_no_chain_are_refused() -> None:
    nodes = {"in": nir.Input({"input": np.array([4])}), "a": nir.Linear(np.eye(4)), "b": nir.Linear(np.eye(4))}
    nodes["out"] = nir.Output({"output": np.array([4])})

    def refused(edges: list[tuple[str, str]], **more: Any) -> str:
        nir.write("model.nir", nir.NIRGraph({**nodes, **more}, edges, type_check=False))
        with pytest.raises(UnsupportedModelError) as caught:
            read_nir(Path("model.nir"), (1, 2, 2))
        return f"{caught.value.where} {caught.value.found}"

    chain = [("in", "a"), ("a", "b"), ("b", "out")]
    assert refused([*chain, ("in", "b")]) == "b has 2 inputs and 1 outputs"
    assert refused([*chain, ("b", "a")]) == "a has 2 inputs and 1 outputs"
    assert refused([("in", "a"), ("a", "out")]) == "b has 0 inputs and 0 outputs"
    assert refused([("in", "a"), ("a", "b")]) == "b has 1 inputs and 0 outputs"
    assert refused(chain, other=nir.Output({"output": np.array([4])})) == "other has 0 inputs and 0 outputs"


def test_r_is_read_as_one_over_dt() -> None:
    # As SpikingJelly writes it, with dt = 1e-4.
    fast = with_one(CONV, neurons([2.0], (1, 4, 4), r=1e4))
    read, *_, notes = read_nir(written(fast), None)
    assert notes == ("r = 10000 is read as 1 / dt: one step adds the whole input.",)
    plain, *_, notes = read_nir(written(with_one(CONV, neurons([2.0], (1, 4, 4)))), None)
    assert notes == ()
    assert all((one == other).all() for one, other in zip(read.buffers(), plain.buffers(), strict=True))
    np.testing.assert_array_equal(next(read.buffers()).numpy(), (CONV.weight / 2).astype(np.float32))


def test_shapes_of_the_input() -> None:
    flat = [nir.Input({"input": np.array([16])}), nir.Linear(np.ones((2, 16))), neurons([1.0], (2,))]
    for given in (None, (1, 3, 3)):
        with pytest.raises(UsageError) as caught:
            read_nir(written(flat), given)
        assert caught.value.where == "input_shape"
        assert caught.value.expected.startswith("must be (C, H, W) with 16 values")
    assert read_nir(written(flat), (1, 4, 4))[1] == (1, 4, 4)
    with pytest.raises(UsageError) as caught:
        read_nir(written(with_one(CONV, FIRES)), (1, 8, 8))
    assert caught.value.expected == "must be (1, 4, 4), as in model.nir"
    # With the batch axis, as tools write it that trace a batch of one.
    batched = [nir.Input({"input": np.array([1, 1, 4, 4])}), *with_one(CONV, FIRES)[1:]]
    assert read_nir(written(batched), None)[1] == (1, 4, 4)


def test_files_that_cannot_be_read() -> None:
    with pytest.raises(CheckpointError, match="not found"):
        read_nir(Path("model.nir"), None)
    Path("model.nir").write_bytes(b"not HDF5")
    with pytest.raises(CheckpointError, match="damaged, or not a NIR graph"):
        read_nir(Path("model.nir"), None)
    nir.write("model.nir", nir.Linear(np.eye(3)))
    with pytest.raises(CheckpointError, match="damaged, or not a NIR graph") as caught:
        read_nir(Path("model.nir"), None)
    # A single node.
    assert caught.value.expected == "must hold a nir.NIRGraph"


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((5,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (5,))
    file.create_virtual_dataset(name, layout)


HOSTILE: dict[str, tuple[Callable[[h5py.File, str], object], str]] = {
    "external storage": (
        lambda file, name: file.create_dataset(name, (5,), "u1", external=[("secret", 0, 5)]),
        "not a dataset of numbers or text in this file",
    ),
    "virtual": (virtual, "not a dataset of numbers or text in this file"),
    "external link": (lambda file, name: file.__setitem__(name, h5py.ExternalLink("other.h5", "x")), "a link;"),
    "soft link": (lambda file, name: file.__setitem__(name, h5py.SoftLink("/node/nodes/n8/weight")), "a link;"),
    "cycle": (lambda file, name: file.__setitem__(name, file["node"]), "nested too deeply"),
    "reference": (
        lambda file, name: file.create_dataset(name, data=file["node"].ref, dtype=h5py.ref_dtype),
        "not a dataset of numbers or text in this file",
    ),
    "complex": (
        lambda file, name: file.create_dataset(name, data=np.ones(5, np.complex64)),
        "not a dataset of numbers or text in this file",
    ),
    "bomb": (
        lambda file, name: file.create_dataset(name, data=np.zeros(2**24), compression="gzip"),
        "decompression ratio too large",
    ),
    "never written": (lambda file, name: file.create_dataset(name, (2**20, 2**20), "f4"), "decompression ratio"),
    "chunk": (
        lambda file, name: file.create_dataset(name, (5,), "f4", chunks=(2**28,), maxshape=(None,)),
        "decompression ratio too large",
    ),
    "texts": (
        lambda file, name: file.create_dataset(name, (2**20,), h5py.string_dtype()),
        "not a dataset of numbers or text in this file",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_before_nir_reads_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, found = HOSTILE[kind]
    path, name = written(chain(np.random.default_rng(3), is_spiking=False)), "node/nodes/n10/bias"
    Path("secret").write_bytes(b"abcde")
    with h5py.File("other.h5", "w") as file:
        file["x"] = np.ones(5, np.float32)
    with h5py.File(path, "r+") as file:
        del file[name]
        change(file, name)
    monkeypatch.setattr(nir, "read", lambda *arguments, **options: pytest.fail("nir has read it"))
    with pytest.raises(CheckpointError) as raised:
        open_source(path)
    assert found in raised.value.found
    assert str(raised.value.where).startswith(f"{path}: {name}" if "ratio" not in found else str(path))


def test_a_file_that_may_not_be_read_is_not_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    Path("net.nir").write_bytes(b"")
    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(CheckpointError) as caught:
        read_nir(Path("net.nir"), SHAPE)
    assert (caught.value.where, caught.value.found) == ("net.nir", "cannot be read (Permission denied)")


def test_a_full_memory_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise MemoryError

    written(chain(np.random.default_rng(3), is_spiking=False), "net.nir")
    monkeypatch.setattr(nir, "read", read)
    with pytest.raises(MemoryError):
        read_nir(Path("net.nir"), SHAPE)


def test_our_own_files_are_refused() -> None:
    from loihi_convert.nir.writer import write

    write(netx.read(Path(netx.__file__).parents[1] / "golden" / "model.net"), "own.nir", hard_reset=True)
    with pytest.raises(InputError) as caught:
        read_nir(Path("own.nir"), None)
    assert caught.value.found == "was written by loihi-convert, in Loihi's integers"


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(with_one(CONV, FIRES))
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(PlatformError) as caught:
        open_source(path)
    assert (caught.value.where, caught.value.hint) == ("nir", "pip install 'loihi-convert[nir]'")


# The command line and the Python API, on digits.


@pytest.fixture
def digits_file() -> Path:
    rng = np.random.default_rng(1)
    nodes = [
        nir.Input({"input": np.array([1, 8, 8])}),
        convolution(rng, 4, 1),
        neurons([1.0, 0.5, 0.75, 1.5], (4, 8, 8)),
        pooling(nir.AvgPool2d),
        flatten(),
        nir.Affine(rng.normal(0, 0.5, (10, 64)), np.zeros(10)),
        neurons(np.full(10, 0.5), (10,)),
    ]
    return written(nodes, "snn.nir")


def test_export_of_a_nir_file(
    digits_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = invoker(monkeypatch, capsys)
    words = ("export", digits_file, "--data", "digits", "-T", "8", "--calibration", "50")
    done = run(*words)
    assert done.code == 0, done.err
    assert "its thresholds are kept" in " ".join(done.out.split())
    network = netx.read(Path("snn.net"))
    balanced = network.provenance.balance
    assert (network.reset, network.readout) == ("hard", "spikes")
    assert (balanced.method, balanced.initial_potential, network.provenance.model.file) == ("qcfs", "zero", "snn.nir")
    # The tool that trained it may subtract the threshold.
    assert run(*words, "--reset", "soft", "--readout", "potential", "-o", "soft.net").code == 0
    soft = netx.read(Path("soft.net"))
    assert (soft.reset, soft.readout, soft.provenance.balance.initial_potential) == ("soft", "potential", "zero")
    done = run("run", "snn.net", "--images", "20", "-o", "run")
    assert done.code == 0, done.err
    done = run(*words, "--balance", "percentile", "-o", "x.net")
    assert done.code == UsageError.exit_code
    assert "--balance: found 'percentile' for a file that holds a spiking network" in done.err
    done = run(*words, "--arch", "a:b", "-o", "x.net")
    assert "--arch: given for a NIR file" in done.err
    done = run("run", digits_file)
    assert "is a NIR file" in done.err
    done = run("check", digits_file)
    assert done.code == 0, done.err
    assert "n5" in done.out
    done = run("sweep", digits_file, "--data", "digits", "-T", "4")
    assert "holds a spiking network, whose thresholds are not balanced again" in done.err
    done = run("export", digits_file, "--overwrite")
    assert "--data: not given" in done.err
    assert not Path("x.net").exists()


# Four steps are few for hard reset.
@pytest.mark.filterwarnings("ignore:the quantized network only agrees")
def test_convert_reads_a_nir_file(digits_file: Path) -> None:
    digits = load_data("digits")
    images = digits.calibration_images()[:50]
    for said in (None, BalanceOptions(), BalanceOptions(readout="spikes")):
        assert lc.convert(digits_file, images, timesteps=4, balancing=said).network.reset == "hard"
    assert lc.convert(digits_file, images, timesteps=4, balancing=BalanceOptions(reset="soft")).network.reset == "soft"
