"""The netx file: round trips in every field and in behaviour, lava-dl as the judge, damage, overwriting."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from support import SUPPORT, oracle, stock_lava_dl
from support.changed_files import overwrite
from support.residual import RELAY_OF, residual_network
from support.strategies import Case, networks

from loihi_convert import netx
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.backends.result import first_difference
from loihi_convert.errors import InputError, NetxError, RangeError
from loihi_convert.ir.network import IntegrateAndFire
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.netx.hdf5 import content_sha256, file_content
from loihi_convert.netx.native import encode


def assert_same(found: object, expected: object, name: str = "network") -> None:
    """Compare every field of a network, and of the dataclasses in it."""
    assert type(found) is type(expected), name
    if isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected), name  # type: ignore[arg-type]
    elif isinstance(expected, tuple):
        assert isinstance(found, tuple)
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{name}[{index}]")
    elif dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name), f"{name}.{field.name}")
    else:
        assert found == expected, name


@given(case=networks())
@settings(max_examples=13, deadline=None)
def test_round_trip_in_every_field_and_in_behaviour(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    network, images = case
    path = tmp_path_factory.mktemp("netx") / "model.net"
    netx.write(network, path)
    assert_same(netx.read(path), network)
    with ReferenceBackend() as ref:
        written = ref.run(netx.read(path), images, 5, trace=True)
    assert first_difference(written, run_network(network, images, 5, trace=True)) is None


def small_network() -> QuantizedNetwork:
    """A convolution without pooling, a dense layer after 2 x 2 pooling, axes all of different length."""
    conv = Conv(np.arange(-6, 6, dtype=np.int32).reshape(2, 1, 3, 2), padding=(1, 0))
    neuron = IntegerNeuron(np.array([500, 700], np.int32), np.array([250, 0], np.int32))
    dense = Dense(np.arange(-9, 9, dtype=np.int32).reshape(3, 6), pool=(2, 2))
    layers = (
        QuantizedLayer("conv", conv, neuron, np.array([0.5, 0.25]), 255),
        QuantizedLayer("fc", dense, None, np.ones(3)),
    )
    return QuantizedNetwork((1, 2, 7), layers, timesteps=4, max_timesteps=9, pixel_bits=8, reset="soft")


@pytest.mark.parametrize(
    "fields",
    [
        {"correction": np.array([0.5, -0.25, 0.0])},
        {"offset": np.array([1000.0, -2.5, 0.25])},
        {"low_bits": 2},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_of_some_layers_are_kept(tmp_path: Path, fields: dict[str, Any]) -> None:
    first, last = small_network().layers
    network = replace(small_network(), layers=(first, replace(last, **fields)))
    netx.write(network, tmp_path / "model.net")
    assert_same(netx.read(tmp_path / "model.net"), network)


def test_what_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(small_network(), path)
    with h5py.File(path) as file:
        assert list(file) == ["layer", "loihi_convert"]
        layers = file["layer"]
        assert [layers[str(index)]["type"][()] for index in range(4)] == [b"input", b"conv", b"flatten", b"dense"]
        assert layers["0/shape"][()].tolist() == [1, 2, 7]
        assert layers["1/shape"][()].tolist() == [2, 2, 6]
        assert layers["1/weight"].shape == (2, 1, 3, 2)
        assert layers["1/padding"][()].tolist() == [1, 0]
        neuron = {name: layers["1/neuron"][name][()] for name in layers["1/neuron"]}
        assert neuron["type"] == b"CUBA"
        assert (neuron["iDecay"], neuron["vDecay"]) == (4096, 0)
        # Lava spikes above vThMant, we at the threshold.
        assert neuron["vThMant"].tolist() == [499, 699]
        # The readout without bias has no neuron group: netx gives it a non-firing integrator.
        assert "neuron" not in layers["3"]
        # Dense after pooling: every weight is repeated for the four inputs of its window; 2 channels x 2 x 6 inputs.
        expected = np.arange(-9, 9).reshape(3, 2, 1, 3).repeat(2, 2).repeat(2, 3).reshape(3, 24)
        assert np.array_equal(layers["3/weight"][()], expected)


def test_a_readout_with_a_bias_is_a_lif_that_never_fires() -> None:
    """netx's own integrator, of a layer without neurons, would add the bias only once."""
    datasets = dict(encode(with_bias(small_network())))
    neuron = {name.removeprefix("layer/3/neuron/"): value for name, value in datasets.items() if "3/neuron/" in name}
    assert neuron.pop("type") == b"CUBA"
    assert {name: value.tolist() for name, value in neuron.items()} == {
        "iDecay": 4096,
        "vDecay": 0,
        "vThMant": 131_071,
    }
    assert datasets["layer/3/bias"].tolist() == [5, 0, -5]


def with_spiking_readout(network: QuantizedNetwork) -> QuantizedNetwork:
    first, last = network.layers
    neuron = IntegerNeuron(np.full(3, 9, np.int32), np.zeros(3, np.int32))
    return replace(network, layers=(first, replace(last, neuron=neuron)))


def with_hard_reset(network: QuantizedNetwork) -> QuantizedNetwork:
    """The same weights and thresholds in Lava's own LIF, which starts at 0."""
    first, last = network.layers
    plain = replace(first, neuron=IntegerNeuron(first.neuron.threshold, 0 * first.neuron.initial_potential))
    return replace(network, reset="hard", layers=(plain, last))


def with_bias(network: QuantizedNetwork) -> QuantizedNetwork:
    biases = (np.array([30, -20], np.int32), np.array([5, 0, -5], np.int32))
    layers = tuple(
        replace(layer, synapse=replace(layer.synapse, bias=bias))
        for layer, bias in zip(network.layers, biases, strict=True)
    )
    return replace(network, layers=layers)


def with_one_threshold_a_layer(network: QuantizedNetwork) -> QuantizedNetwork:
    first, last = network.layers
    neuron = IntegerNeuron(np.full(2, 600, np.int32), np.array([300, 0], np.int32))
    return replace(network, layers=(replace(first, neuron=neuron), last), thresholds="scalar")


STOCK_NETWORKS = {
    "potential": small_network(),
    "potential with bias": with_bias(small_network()),
    "spikes, one threshold a layer": with_one_threshold_a_layer(with_spiking_readout(small_network())),
}
STOCK_IMAGES = np.random.default_rng(0).integers(0, 256, (3, 1, 2, 7)).astype(np.uint8)


@pytest.fixture(scope="module")
def stock_potentials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Output potentials after each step, ``(N, T, classes)``, from unmodified lava-dl: one process for all networks."""
    folder = tmp_path_factory.mktemp("stock")
    np.save(folder / "images.npy", STOCK_IMAGES)
    calls = []
    for name, network in STOCK_NETWORKS.items():
        netx.write(network, folder / f"{name}.net")
        script = SUPPORT / "run_stock_netx.py"
        calls.append((script, folder / f"{name}.net", folder / "images.npy", 6, folder / f"{name}.npy"))
    stock_lava_dl.run_scripts(*calls)
    return {name: np.load(folder / f"{name}.npy") for name in STOCK_NETWORKS}


@pytest.mark.lava
@pytest.mark.parametrize("readout", STOCK_NETWORKS)
def test_unmodified_lava_dl_runs_the_file_as_hard_reset_lif(
    stock_potentials: dict[str, np.ndarray], readout: str
) -> None:
    """The same integers with reset to 0 and V0 = 0, which is all that stock netx knows: equal to the oracle."""
    potentials, spikes = oracle.run(with_hard_reset(STOCK_NETWORKS[readout]), STOCK_IMAGES, 6)
    assert all(fired.any() for fired in spikes)
    assert np.array_equal(stock_potentials[readout], potentials[-1])


def test_existing_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already") as caught:
        netx.write(small_network(), path)
    assert caught.value.where == str(path)
    assert path.read_bytes() == b"precious"
    netx.write(small_network(), path, overwrite=True)
    assert_same(netx.read(path), small_network())
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.net"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory") as caught:
        netx.write(small_network(), tmp_path / "absent" / "model.net")
    assert caught.value.where == str(tmp_path / "absent" / "model.net")


def test_chunks_do_not_cut_through_kernels() -> None:
    """A pooling of 4 x 4 repeats each weight 16 times, side by side; h5py's own chunks would separate them."""
    kernels = np.random.default_rng(0).integers(-128, 128, (64, 32, 3, 3)).astype(np.int8)
    repeated = kernels.repeat(4, axis=2).repeat(4, axis=3)
    content = file_content({"weight": repeated, "once": kernels, "small": np.arange(500, dtype=np.int32)})
    with h5py.File(io.BytesIO(content)) as file:
        assert file["weight"].chunks[1:] == repeated.shape[1:]
        assert file["weight"].id.get_storage_size() < 3 * file["once"].id.get_storage_size()
        # An index of chunks would take more than compression saves.
        assert (file["small"].chunks, file["small"].compression) == (None, None)
        assert np.array_equal(file["weight"][()], repeated)


def test_a_long_record_is_written(tmp_path: Path) -> None:
    """Text is stored as a scalar, which HDF5 cannot compress; 300 names take more than 4,096 bytes."""
    names = [f"class number {number}" for number in range(300)]
    layers = (QuantizedLayer("fc", Dense(np.ones((300, 4), np.int32)), None, np.ones(300), 255),)
    record = {"model": {"classes": names}}
    network = QuantizedNetwork((1, 2, 2), layers, 2, 2, pixel_bits=8, reset="soft", provenance=record)
    netx.write(network, tmp_path / "many.net")
    assert netx.read(tmp_path / "many.net").provenance.model.classes == tuple(names)


@pytest.mark.slow
def test_weights_that_a_pooling_repeats_are_read_however_well_they_compress(tmp_path: Path) -> None:
    """The average of a map of 128 x 128 is written as the same weight 16,384 times: gzip leaves one byte of 300."""
    rng = np.random.default_rng(0)
    hidden = QuantizedLayer(
        name="conv",
        synapse=Conv(np.ones((32, 1, 1, 1), np.int32)),
        neuron=IntegerNeuron(np.full(32, 255, np.int32), np.zeros(32, np.int32)),
        scale=np.ones(32),
        largest_input=255,
    )
    output = QuantizedLayer(
        name="fc",
        synapse=Dense(rng.integers(-15, 16, (100, 32)).astype(np.int32), pool=(128, 128)),
        neuron=None,
        scale=np.ones(100),
        largest_input=1,
    )
    network = QuantizedNetwork((1, 128, 128), (hidden, output), 1, 1, pixel_bits=8, reset="soft")
    netx.write(network, tmp_path / "pooled.net")
    found = netx.read(tmp_path / "pooled.net")
    assert 100 * 32 * 128 * 128 / 256 < (tmp_path / "pooled.net").stat().st_size < 100 * 32 * 128 * 128 / 25
    assert np.array_equal(found.layers[1].weight, network.layers[1].weight)


@pytest.mark.parametrize(
    ("index", "fields", "found"),
    [
        (1, {"offset": np.array([0.0, np.nan, 0.0])}, "offset float64 [0.0, nan, 0.0]"),
        (1, {"scale": np.array([1.0, 1.0, 0.0])}, "scale float64 [1.0, 1.0, 0.0]"),
        (0, {"balanced": ([1.0, 0.0], [1.0, 1.0], [0.0, 0.0])}, "balanced threshold float64 [1.0, 0.0]"),
        (0, {"balanced": ([1.0, 1.0], [1.0, np.inf], [0.0, 0.0])}, "balanced amplitude float64 [1.0, inf]"),
        (0, {"balanced": ([1.0, 1.0], [1.0, -1.0], [0.0, 0.0])}, "balanced amplitude float64 [1.0, -1.0]"),
        (0, {"balanced": ([1.0, 0.5], [1.0, 1.0], [0.0, 0.5])}, "balanced V0 float64 [0.0, 0.5]"),
    ],
)
def test_numbers_that_are_not_valid_are_refused(index: int, fields: dict[str, Any], found: str) -> None:
    if "balanced" in fields:
        fields = {"balanced": IntegrateAndFire(*map(np.array, fields["balanced"]))}
    layers = list(small_network().layers)
    layers[index] = replace(layers[index], **fields)
    with pytest.raises(RangeError) as refused:
        replace(small_network(), layers=tuple(layers))
    assert (refused.value.where, refused.value.found) == (layers[index].name, found)


@pytest.mark.parametrize(("place", "number"), [("scale", 0.0), ("correction", np.nan)])
def test_forged_numbers_are_not_read(tmp_path: Path, place: str, number: float) -> None:
    network, path = small_network(), tmp_path / "model.net"
    object.__setattr__(network.layers[-1], place, np.full(3, number))
    netx.write(network, path)
    with pytest.raises(NetxError) as refused:
        netx.read(path)
    assert refused.value.where == f"{path}: {network.layers[-1].name}"
    assert refused.value.found.startswith(f"{place} float64 [")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NetxError, match="no such file") as caught:
        netx.read(tmp_path / "model.net")
    assert caught.value.where == str(tmp_path / "model.net")
    assert "loihi-convert export" in caught.value.hint


def test_files_that_are_not_native(tmp_path: Path) -> None:
    path = tmp_path / "external.net"
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(NetxError, match="not an HDF5 file") as caught:
        netx.read(path)
    assert caught.value.where == str(path)
    with h5py.File(path, "w") as file:
        file.create_group("layer")
    with pytest.raises(NetxError, match="not written by loihi-convert") as caught:
        netx.read(path)
    assert (caught.value.where, "'loihi_convert'" in caught.value.found) == (str(path), True)


def test_a_file_that_was_copied_by_another_program(tmp_path: Path) -> None:
    path, copy = tmp_path / "model.net", tmp_path / "copy.net"
    netx.write(small_network(), path)
    with h5py.File(path) as file, h5py.File(copy, "w") as other:
        for name in file:
            file.copy(file[name], other)
    with pytest.raises(NetxError, match="written again by another program: content_sha256 is missing"):
        netx.read(copy)


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.zeros((2, 3), np.int32)},
        {"a": np.zeros((2, 3), np.float32)},
        {"a": np.zeros((3, 2), np.int32)},
    ],
    ids=["name", "dtype", "shape"],
)
def test_the_digest_covers_more_than_the_bytes(other: dict[str, np.ndarray]) -> None:
    assert content_sha256(other) != content_sha256({"a": np.zeros((2, 3), np.int32)})


def test_any_changed_number_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    names: list[str] = []
    netx.write(small_network(), path)
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(names) > 20
    for name in names:
        netx.write(small_network(), path, overwrite=True)
        with h5py.File(path, "r+") as file:
            value = file[name][()]
            file[name][...] = value + 1 if not isinstance(value, bytes) else value[:-1] + bytes([value[-1] ^ 1])
        with pytest.raises(NetxError, match="damaged: the bytes"):
            netx.read(path)
        path.write_bytes(path.read_bytes()[512:])
        with pytest.raises(NetxError, match="damaged: the content") as caught:
            netx.read(path)
        assert caught.value.where == str(path)


def test_a_file_begins_with_a_line_for_people_and_is_read_without_it(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(small_network(), path)
    content = path.read_bytes()
    digest = hashlib.sha256(content[512:]).hexdigest()
    assert content.splitlines()[0].decode() == f"loihi-convert netx; sha256 of all bytes from 512: {digest}"
    # As a tool that copies HDF5 objects into a new file leaves it.
    path.write_bytes(content[512:])
    assert_same(netx.read(path), small_network())


@pytest.mark.parametrize("keep", [0, 1, 100, 2000, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.net"
    netx.write(small_network(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(NetxError) as caught:
        netx.read(path)
    assert caught.value.where.startswith(str(path))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer/0/initial_potential", [500, 0], "conv: .*initial potentials"),
        # Two to this power is a number of 256 MiB.
        ("pixel_bits", 2**31 - 1, "pixel_bits: .*2147483647"),
        ("format", 0, "format: .*0; must be 1"),
        ("format", 2, r"format: written by a newer version of loihi-convert \(format 2\). Update loihi-convert."),
        ("reset", b"sofa", "reset: .*'sofa'; must be one of soft, hard"),
        ("layer/0/scale", [0, 1], "conv: scale"),
        # The same bytes, which lava-dl reads as another shape or other numbers.
        ("/layer/1/shape", np.array([[2], [2], [6]], np.int32), "layer/1/shape: .*inconsistent"),
        ("/layer/1/shape", np.array([2, 2, 6], np.int32).view(np.float32), "layer/1/shape: .*inconsistent"),
    ],
)
def test_numbers_that_break_a_rule_are_refused_with_the_path(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    """A file whose digests match but whose content another tool has changed."""
    path = tmp_path / "model.net"
    netx.write(small_network(), path)
    overwrite(path, name, value)
    with pytest.raises(NetxError, match=message) as caught:
        netx.read(path)
    assert caught.value.where.startswith(str(path))


@pytest.mark.parametrize(
    ("part", "key", "found"),
    [
        ({"model": {"classes": 5}}, "model.classes", "5"),
        ({"model": {"classes": [["a"], ["b"]]}}, "model.classes", "['a']"),
        ({"model": {"classes": "ab"}}, "model.classes", "'ab'"),
        ({"model": {"file": 7}}, "model.file", "7"),
        ({"model": {"arch": ["nets:make"]}}, "model.arch", "['nets:make']"),
        ({"model": {"data": {}}}, "model.data", "{}"),
        ({"model": {"mean": "much"}}, "model.mean", "'much'"),
        ({"model": []}, "model", "[]"),
        ({"balance": {"method": 3}}, "balance.method", "3"),
        ({"quantize": "int8"}, "quantize", "'int8'"),
    ],
)
def test_a_forged_provenance(tmp_path: Path, part: dict[str, object], key: str, found: str) -> None:
    path = tmp_path / "model.net"
    netx.write(replace(small_network(), provenance=part), path)
    with pytest.raises(NetxError) as raised:
        netx.read(path)
    assert key in raised.value.where
    assert found in raised.value.found


def test_what_other_versions_record_is_kept(tmp_path: Path) -> None:
    """Unknown keys at each level, absent keys and null: written again to the byte."""
    content = {"later": [1, 1.0, None], "model": {"data": None, "shape": {"a": 1}}, "balance": {"alpha": 1, "new": 2}}
    for name in ("first.net", "again.net"):
        network = (
            replace(small_network(), provenance=content) if name == "first.net" else netx.read(tmp_path / "first.net")
        )
        netx.write(network, tmp_path / name)
    assert (tmp_path / "first.net").read_bytes() == (tmp_path / "again.net").read_bytes()
    assert dict(network.provenance) == content
    assert (network.provenance.model.data, network.provenance.balance.alpha) == (None, 1)


def test_what_is_not_said_of_the_cnn_is_not_asked_for(tmp_path: Path) -> None:
    for number, model in enumerate(({}, {"data": None, "classes": []})):
        netx.write(replace(small_network(), provenance={"model": model}), tmp_path / f"{number}.net")
        assert netx.read(tmp_path / f"{number}.net").provenance["model"] == model


def file_with_relays(folder: Path) -> Path:
    """Layer 1 of the file repeats the four channels of layer 0 in its last four."""
    netx.write(residual_network(), folder / "model.net")
    return folder / "model.net"


def test_relays_are_written_and_read(tmp_path: Path) -> None:
    path = file_with_relays(tmp_path)
    found, network = netx.read(path), residual_network()
    assert_same(found, network)
    assert [None if layer.relay_of is None else layer.relay_of.tolist() for layer in found.layers] == [
        None,
        RELAY_OF.tolist(),
        None,
        None,
    ]
    with h5py.File(path) as file:
        stored = [f"layer/{index}/relay_of" for index in range(4)]
        assert [name in file["loihi_convert"] for name in stored] == [False, True, False, False]
        # lava-dl reads what it does of any layer.
        assert sorted(file["layer/2"]) == [
            *("dilation", "groups", "neuron", "padding", "shape", "stride", "type", "weight"),
        ]
    netx.write(found, tmp_path / "again.net")
    assert (tmp_path / "again.net").read_bytes() == path.read_bytes()


def test_files_without_relays_say_nothing_of_them(tmp_path: Path) -> None:
    """A layer that could have some but has none is written as one that cannot."""
    conv, dense = small_network().layers
    for name, relay_of in (("none.net", None), ("no.net", np.full(2, -1))):
        netx.write(replace(small_network(), layers=(replace(conv, relay_of=relay_of), dense)), tmp_path / name)
    assert (tmp_path / "none.net").read_bytes() == (tmp_path / "no.net").read_bytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        # Another source than the weight's.
        ([-1, -1, -1, 1, 0, 2, 3], "repeats"),
        ([-1, -1, -1, 0, 1, 2, 4], "repeats"),
        # A channel with weights of its own.
        ([0, -1, -1, 0, 1, 2, 3], "more than one weight"),
        ([-2, -1, -1, 0, 1, 2, 3], "a channel index or -1 for each"),
        ([-1, -1, -1, 0, 1, 2], "relay_of must be int"),
        ([[-1, -1, -1, 0, 1, 2, 3]], "a channel index or -1 for each"),
        ([-1.0, -1, -1, 0, 1, 2, 3], "must be integers"),
        # No relay at all is not written.
        ([-1] * 7, "unexpected in a file"),
    ],
)
def test_relays_that_are_damaged_are_refused(tmp_path: Path, value: list[int], message: str) -> None:
    path = file_with_relays(tmp_path)
    overwrite(path, "layer/1/relay_of", value)
    with pytest.raises(NetxError, match=message) as caught:
        netx.read(path)
    assert caught.value.where.startswith(str(path))


def test_a_relay_whose_threshold_was_changed_is_refused(tmp_path: Path) -> None:
    """The integers of the file still agree with one another, but spikes would be lost."""
    path = file_with_relays(tmp_path)
    thresholds = residual_network().layers[1].threshold
    overwrite(path, "/layer/2/neuron/vThMant", thresholds)
    with pytest.raises(NetxError, match="a relay's weight must equal its threshold") as caught:
        netx.read(path)
    assert "inner" in caught.value.where


def test_the_bytes_do_not_depend_on_when_datasets_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker of Dask, whose profiler holds frames, and so the datasets in them."""
    datasets = dict(netx.native.encode(small_network()))
    expected, held = netx.hdf5.file_content(datasets), []
    create = h5py.Group.create_dataset

    def create_and_hold(*arguments: Any, **options: Any) -> h5py.Dataset:
        held.append(create(*arguments, **options))
        return held[-1]

    monkeypatch.setattr(h5py.Group, "create_dataset", create_and_hold)
    assert netx.hdf5.file_content(datasets) == expected
    assert len(held) == len(datasets)


def test_threads_write_at_the_same_time() -> None:
    datasets = dict(netx.native.encode(small_network()))
    with ThreadPoolExecutor(4) as threads:
        written = list(threads.map(lambda _: netx.hdf5.file_content(datasets), range(40)))
    assert set(written) == {netx.hdf5.file_content(datasets)}
