"""The resource model against what Intel's compiler printed for five networks (`golden/loihi2_compiler_cores.csv`)."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.chip import limits
from loihi_convert.chip.partition import (
    ConvLayer,
    DenseLayer,
    Kernel,
    Partition,
    Placed,
    circuit_words,
    dense_words,
    packed_dense_words,
    savings,
)
from loihi_convert.chip.resources import Chips, Populated, network_resources, resources
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense

Row = dict[str, str]

TABLES = Path(__file__).parent / "golden" / "loihi2_compiler_cores.csv"

WIDER = {("pilotnet_sdnn", "6"), ("pilotnet_snn", "6")}
"""2,560 inputs and 100 neurons: 12 cores, as if half of the memory could be used, as in no newer table: 6 to 12."""

OTHER_WORDS = {
    # Weights of 5 bits: 5 words a row, not 6.
    ("pilotnet_sdnn", "5"): 2880, ("pilotnet_snn", "4"): 2160, ("pilotnet_snn", "5"): 2880,
    # Its weights are not stored with the notebook.
    ("yolo_kp", "6"): 11520,
    # The last layer takes two neuron groups, and 6 words a row, not 5.
    ("yolo_kp", "10"): 3072,
}  # fmt: skip


def table() -> list[Row]:
    lines = [line for line in TABLES.read_text().splitlines() if not line.startswith("#")]
    return sorted(csv.DictReader(lines), key=lambda row: (row["network"], int(row["layer"])))


ROWS = table()


def key(row: Row) -> tuple[str, str]:
    return row["network"], row["layer"]


def layer_of(row: Row) -> ConvLayer | DenseLayer:
    """The layer; the input channels of a convolution are those of the layer before, 3 of the image."""
    width, height, channels = (int(row[name]) for name in ("width", "height", "channels"))
    if row["type"] == "dense":
        return DenseLayer(channels, int(row["inputs"]))
    if row["type"] == "input":
        return ConvLayer(width, height, Kernel(0, 0, channels))
    before = [int(other["channels"]) for other in ROWS if key(other) == (row["network"], str(int(row["layer"]) - 1))]
    taps = math.prod(map(int, row["kernel"].split("x")))
    return ConvLayer(width, height, Kernel(taps, before[0] if before else 3, channels))


def words_of(row: Row) -> float:
    """Printed words of synaptic memory per core."""
    printed = float(row["synmem_words_per_core"])
    return printed if row["unit"] == "count" else printed * limits.SYNAPSE_WORDS / 100


def cores_of(row: Row) -> tuple[int, int]:
    low, high = layer_of(row).partitions()
    return low.cores, high.cores


def test_a_layer_of_relays_has_no_channels_to_save() -> None:
    wide, narrow = ConvLayer(8, 8, Kernel(9, 64, 64)), ConvLayer(1, 1, Kernel(1, 1, 1))
    relays = Placed("relays", wide, 0, (1, 1), wide)
    assert savings([relays, Placed("last", narrow, 1, (1, 1), narrow)]) == ()


@pytest.mark.parametrize(
    ("neurons", "change", "after"),
    [(12_288, "10752 neurons instead of 12288", 3), (16_384, "8192 neurons instead of 16384", 3)],
)
def test_fewer_neurons_must_save_a_quarter_of_the_cores(neurons: int, change: str, after: int) -> None:
    """4,095 neurons fit a core. An eighth less of 12,288 saves one of 4 cores, which is enough, of 16,384 one of 5."""
    hidden, last = DenseLayer(neurons, 1), DenseLayer(1, 1)
    (saving,) = savings([Placed("fc", hidden, neurons, (1, 1), hidden), Placed("last", last, 1, (1, 1), last)])
    assert (saving.change, saving.after) == (change, (after, after))


def test_a_split_readout_takes_both_of_its_populations() -> None:
    hidden = QuantizedLayer(
        "hidden",
        Conv(np.ones((4, 1, 3, 3), np.int32)),
        IntegerNeuron(np.full(4, 9, np.int32), np.zeros(4, np.int32)),
        np.ones(4),
        255,
    )
    readout = QuantizedLayer("fc", Dense(np.full((3, 144), 100, np.int32)), None, np.ones(3), low_bits=4)
    network = QuantizedNetwork((1, 8, 8), (hidden, readout), 1, 9, pixel_bits=8, reset="soft")
    assert [layer.neurons for layer in network_resources(network).layers] == [144, 6]
    assert network_resources(network) == network_resources(network.stored)


def test_all_rows_are_there() -> None:
    assert len(ROWS) == 34
    assert {network: sum(row["network"] == network for row in ROWS) for network, _ in map(key, ROWS)} == {
        "mnist": 3, "oxford": 2, "pilotnet_sdnn": 9, "pilotnet_snn": 10, "yolo_kp": 10,
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(key(row)))
def test_the_range_holds_what_the_compiler_took(row: Row) -> None:
    """And is at most 25 % to each side of its middle; of a convolution it is one number."""
    low, high = cores_of(row)
    assert low <= int(row["cores"]) <= high
    assert (high - low) / (high + low) <= (1 / 3 if key(row) in WIDER else 1 / 4)
    if row["type"] != "dense":
        assert low == high


@pytest.mark.parametrize("row", [row for row in ROWS if row["tile_w"]], ids=lambda row: "-".join(key(row)))
def test_the_tile_is_the_compilers(row: Row) -> None:
    low, _ = layer_of(row).partitions()
    assert low.tile == tuple(int(row[name]) for name in ("tile_w", "tile_h", "tile_c"))
    share = float(row["neurons_per_core"])
    printed = share if row["unit"] == "count" else share * limits.NEURONS_PER_CORE / 100
    assert low.neurons == pytest.approx(printed, abs=0.005 * limits.NEURONS_PER_CORE / 100)


@pytest.mark.parametrize("row", [row for row in ROWS if row["type"] == "conv"], ids=lambda row: "-".join(key(row)))
def test_a_kernel_takes_the_printed_words(row: Row) -> None:
    low, _ = layer_of(row).partitions()
    wanted = OTHER_WORDS.get(key(row), low.words)
    assert wanted == pytest.approx(words_of(row), abs=0.005 * limits.SYNAPSE_WORDS / 100)
    assert (key(row) in OTHER_WORDS) == (wanted != low.words)


@pytest.mark.parametrize("row", [row for row in ROWS if row["type"] == "dense"], ids=lambda row: "-".join(key(row)))
def test_a_dense_layer_takes_about_the_printed_words(row: Row) -> None:
    """MNIST's tables give the fullest core, with 50 of the 128 neurons; the older ones the mean over the cores."""
    share = float(row["neurons_per_core"])
    if row["unit"] == "percent":
        neurons = round(share * limits.NEURONS_PER_CORE / 100)
        assert dense_words(neurons, int(row["inputs"])) == round(words_of(row))
    else:
        neurons = math.ceil(int(row["channels"]) / int(row["cores"]))
        assert 0.75 <= words_of(row) / dense_words(neurons, int(row["inputs"])) <= 1
        mean = int(row["channels"]) / int(row["cores"])
        assert 0.8 <= words_of(row) / packed_dense_words(mean, int(row["inputs"])) <= 1.02


def test_the_input_is_counted_as_the_compiler_does() -> None:
    """PilotNet's image of 200 x 66 pixels in 3 colours: ceil(200 / 16) tiles of 16 columns."""
    (row,) = (row for row in ROWS if row["type"] == "input")
    shape = tuple(int(row[name]) for name in ("channels", "height", "width"))
    chips = resources(shape, [Populated("conv", Conv(np.ones((24, 3, 3, 3)), stride=(2, 2)))])
    assert (chips.input_cores, chips.cores) == (int(row["cores"]), (25, 25)) == (13, (25, 25))
    assert "takes 13 more" in chips.boundary


@pytest.mark.slow
def test_the_page_says_which_ready_made_networks_fit_a_chip() -> None:
    root = Path(__file__).parents[1]
    page, readme = (root / "docs/chip/cores.md").read_text(), (root / "README.md").read_text()
    table = page.partition("## Ready-made networks")[2]
    folders = {path.parent.name for path in (root / "netx_models").glob("*/card.json")}
    assert folders == set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE))
    for folder in folders:
        (row,) = re.findall(rf"^\| `{folder}` \| (.*) \| (.*) \|$", table, re.MULTILINE)
        found = [network_resources(netx.read(path)) for path in sorted((root / "netx_models" / folder).glob("*.net"))]
        counts = {min(chips.cores[0] for chips in found), max(chips.cores[1] for chips in found)}
        assert row[0] == " to ".join(f"{count:,}" for count in sorted(counts))
        (needed,) = {chips.needed for chips in found}
        assert row[1].split(":")[0] == str(needed or "none")
        (unfit,) = {next((layer.name for layer in chips.layers if not layer.fits), None) for chips in found}
        assert unfit is None or f"`{unfit}`" in row[1]
        assert {chips.input_cores for chips in found} == {1 if "cifar10" in folder else 2}
    assert "MNIST's (7 of 128) and `fashion-mnist-maxpool` (41) fit one chip, and `cifar10-resnet20` fits two" in readme


def test_the_totals_of_the_networks() -> None:
    totals = {
        network: tuple(sum(cores_of(row)[end] for row in ROWS if row["network"] == network) for end in (0, 1))
        for network, _ in map(key, ROWS)
    }
    printed = {network: sum(int(row["cores"]) for row in ROWS if row["network"] == network) for network in totals}
    assert printed == {"mnist": 5, "oxford": 5, "pilotnet_sdnn": 61, "pilotnet_snn": 61 + 13, "yolo_kp": 574}
    assert totals == {
        "mnist": (5, 6), "oxford": (4, 6), "pilotnet_sdnn": (55, 61), "pilotnet_snn": (68, 74), "yolo_kp": (574, 574),
    }  # fmt: skip


def one(layer: ConvLayer | DenseLayer) -> Partition:
    return layer.partitions()[0]


@pytest.mark.parametrize(
    ("layer", "cores", "limit"),
    [
        # 2,340 neurons, as wide as a power of two.
        (ConvLayer(4, 45, Kernel(1, 1, 13)), 1, None),
        # 3,136 neurons, in columns of 8: PilotNet's fifth layer.
        (ConvLayer(14, 14, Kernel(1, 1, 16)), 2, "tile width"),
        # 4,095 neurons fit a core, but not 63 columns.
        (ConvLayer(63, 65, Kernel(1, 1, 1)), 2, "tile width"),
        # 8 x 8 x 64 are 4,096 neurons, one too many; with 63 channels it is one core.
        (ConvLayer(8, 8, Kernel(9, 1, 64)), 2, "neurons"),
        (ConvLayer(8, 8, Kernel(9, 1, 63)), 1, None),
        # 9 x 512 rows leave 3 words each: 28 channels, and 64 are halved to 16.
        (ConvLayer(4, 4, Kernel(9, 512, 64)), 4, "synaptic memory"),
        # In 64 groups a channel has 9 x 8 rows of one word.
        (ConvLayer(4, 4, Kernel(9, 8, 64, groups=64)), 1, None),
        (DenseLayer(4095, 1), 1, None),
        (DenseLayer(4096, 1), 2, "neurons"),
        # 4 words a row hold 12 neurons.
        (DenseLayer(12, 4000), 1, "synaptic memory"),
        (DenseLayer(13, 4000), 2, "synaptic memory"),
        # One word a row is the least: 2 neurons.
        (DenseLayer(10, 16_000), 5, "synaptic memory"),
    ],
)
def test_partitions_by_hand(layer: ConvLayer | DenseLayer, cores: int, limit: str | None) -> None:
    low, high = layer.partitions()
    assert (low.cores, high.limit, low.fits) == (cores, limit, True)


def test_what_no_core_holds() -> None:
    """Inputs beyond the axons; 6 x 6 taps of 512 channels, as after a pooling: 18,432 rows of a word at least."""
    dense, conv = one(DenseLayer(10, 16_001)), one(ConvLayer(7, 7, Kernel(36, 512, 512)))
    assert (dense.fits, dense.limit) == (False, "axons")
    assert (conv.fits, conv.limit) == (False, "synaptic memory")
    # Each neuron, and each channel of each of seven columns, counts as two cores.
    assert (dense.cores, conv.cores) == (2 * 10, 2 * 7 * 512)


def test_the_circuit_takes_memory() -> None:
    """A row of one word for each neuron's reset; the bias source's row of 100 neurons has ceil(503 / 16) words."""
    assert circuit_words(100, has_reset=True, has_bias=False) == 100
    assert circuit_words(100, has_reset=True, has_bias=True) == 100 + 32
    layer = ConvLayer(8, 8, Kernel(25, 64, 32), has_reset=True, has_bias=True)
    # 1,600 rows of 4 words, 2,048 resets, and one row of 641 words.
    assert one(layer).words == 1600 * 4 + 2048 + 641
    # 3,700 rows of 4 words leave 1,200 words, too few for the resets of 2,048 neurons.
    full = Kernel(25, 148, 32)
    assert (one(ConvLayer(8, 8, full)).cores, one(ConvLayer(8, 8, full, has_reset=True)).cores) == (1, 2)


def small_cnn(pool: int = 2) -> Chips:
    """Two convolutions of 64 and 128 channels on 32 x 32 pixels, with a pooling between, and ten outputs."""
    return resources(
        (3, 32, 32),
        [
            Populated("conv1", Conv(np.ones((64, 3, 3, 3)), padding=(1, 1))),
            Populated("conv2", Conv(np.ones((128, 64, 3, 3)), padding=(1, 1), pool=(pool, pool))),
            Populated("fc", Dense(np.ones((10, 128)), pool=(32 // pool, 32 // pool))),
        ],
    )


def test_what_saves_most() -> None:
    """conv1: 65,536 neurons in tiles of 2,048, and of 63 channels 4,032. With stride 2 it has a quarter of them, in 8
    cores, and conv2, still limited by neurons, 16.

    fc has 32,768 inputs, more than a core has axons. A pooling layer before it takes 256 rows of a word for each of 128
    channels, so 4 cores, and fc 1.
    """
    chips = small_cnn()
    conv1, conv2, fc = chips.layers
    assert (conv1.cores, conv1.tile) == ((32, 32), (4, 8, 64))
    assert (conv2.cores, conv2.limit) == ((16, 16), "neurons")
    assert (fc.cores, fc.limit, fc.fits) == ((30, 30), "axons", False)
    pooling, stride, channels = chips.savings
    assert pooling.layer == "conv2"
    assert pooling.change.startswith("the pooling as a layer of its own")
    assert (pooling.before, pooling.after) == ((16 + 30,) * 2, (16 + 4 + 1,) * 2)
    assert (stride.layer, stride.change) == ("conv1", "a stride of 2 instead of the pooling after it,")
    assert (stride.before, stride.after) == ((32 + 16,) * 2, (8 + 16,) * 2)
    assert (channels.layer, channels.change, channels.after) == ("conv1", "63 channels instead of 64", (16, 16))
    assert channels.sentence == "63 channels instead of 64 in conv1 (16 instead of 32 neurocores)"
