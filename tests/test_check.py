"""`check`: valid networks, and for every rule a network that violates it: finding, layer, severity and exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.external_files import NEURON, LayerData, small_layers, write_external
from support.strategies import Case, loihi2_networks, networks
from torch import nn
from typer.testing import CliRunner

from loihi_convert import cli, netx
from loihi_convert.backends.reference import run_network
from loihi_convert.checks.finding import Finding, findings
from loihi_convert.checks.lava_dl import (
    FILE_RULES,
    STOCK_LIF_RULES,
    STOCK_RULES,
    LavaDl,
    biases_and_thresholds_fit_the_state_of_a_sigma_delta_neuron,
    lava_dl,
    lava_dl_findings,
    lava_dl_notes,
)
from loihi_convert.checks.network_rules import (
    ACTIVITY_RULES,
    CIRCUIT_RULES,
    LAYER_RULES,
    MEMORY_RULES,
    NETWORK_ACTIVITY_RULES,
    NETWORK_RULES,
    NEUROCORE_RULES,
    Activity,
    LayerRun,
    NetworkActivity,
    NetworkRun,
    cnn_activity,
    layer_runs,
    network_activity,
)
from loihi_convert.chip import limits
from loihi_convert.chip.resources import Chips, Populated, network_resources, neuron_costs, resources
from loihi_convert.errors import CheckpointError, DataError, InputError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Reset, Target
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.netx.native import encode
from loihi_convert.netx.stock import StockLayer
from loihi_convert.pipeline import checking
from loihi_convert.pipeline.checking import LoadedFile, load_file
from loihi_convert.pipeline.options import CheckOptions

Datasets = dict[str, Any]


KERNEL = [[[[3, -1], [-2, 1]]], [[[-1, 2], [2, -2]]]]
LARGE_KERNEL = [[[[127] * 2] * 2], [[[-127] * 2] * 2]]
READOUT = Dense(np.arange(-36, 36).reshape(4, 18).astype(np.int32))
POOLED_READOUT = Dense(np.eye(4, 2, dtype=np.int32) * 9 - 1, pool=(3, 3))


def good(
    target: Target = "lava",
    *,
    reset: Reset = "hard",
    kernel: Any = KERNEL,
    bias: list[int] | None = None,
    threshold: tuple[int, int] = (64, 64),
    readout: Dense = READOUT,
    timesteps: int = 4,
    proven: int = 16,
    poisson_seed: int | None = None,
    pixel_bits: int = 4,
) -> QuantizedNetwork:
    """A convolution of two channels and a dense readout, with hard reset and one threshold: valid for a chip."""
    synapse = Conv(np.array(kernel, np.int32), None if bias is None else np.array(bias, np.int32))
    neuron = IntegerNeuron(np.array(threshold, np.int32), np.zeros(2, np.int32))
    is_constant = poisson_seed is None
    layers = (
        QuantizedLayer("conv", synapse, neuron, np.ones(2), (1 << pixel_bits) - 1 if is_constant else 1),
        QuantizedLayer("fc", readout, None, np.ones(4)),
    )
    return QuantizedNetwork(
        input_shape=(1, 4, 4),
        layers=layers,
        timesteps=timesteps,
        max_timesteps=proven,
        pixel_bits=pixel_bits,
        reset=reset,
        poisson_seed=poisson_seed,
        target=target,
    )


def circuit() -> QuantizedNetwork:
    return good("loihi2", reset="soft")


BY_LAVA_DL = "unmodified lava dl computes the same"


def found_in(path: Path, target: Target = "lava", **options: Any) -> dict[str, Finding]:
    """Return the findings by rule; each rule has at most one finding in these networks."""
    images, labels = options.pop("images", None), options.pop("labels", None)
    checked = checking.check(load_file(path), images, CheckOptions(target, **options), labels=labels)
    return {finding.rule: finding for finding in checked.findings}


@pytest.fixture
def check_network(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    def check(network: QuantizedNetwork, target: Target = "lava", **options: Any) -> dict[str, Finding]:
        netx.write(network, tmp_path / "model.net", overwrite=True)
        return found_in(tmp_path / "model.net", target, **options)

    return check


@pytest.mark.parametrize(
    ("network", "target"),
    [
        (good(pixel_bits=8), "lava"),
        # As many steps as are proven.
        (good(pixel_bits=8, proven=4), "lava"),
        (good(pixel_bits=8), "loihi2"),
    ],
)
def test_nothing_is_found_in_a_good_network(
    check_network: Callable[..., dict[str, Finding]], network: QuantizedNetwork, target: Target
) -> None:
    assert check_network(network, target) == {}


def test_the_sixteen_bits_of_lavas_lif_do_not_limit_soft_reset(
    check_network: Callable[..., dict[str, Finding]],
) -> None:
    found = check_network(good(reset="soft", bias=[40_000, 0], threshold=(64, 65)))
    assert_says(found[BY_LAVA_DL], "note", None, ["unmodified lava-dl", "wrap biases beyond 32,767"])
    assert "biases fit sixteen bits" not in found


@pytest.mark.slow
@given(cases=st.tuples(networks(), loihi2_networks()))
@settings(max_examples=8, deadline=None)
def test_no_native_network_has_an_error_on_lava(
    tmp_path_factory: pytest.TempPathFactory, cases: tuple[Case, Case]
) -> None:
    for network, _ in cases:
        path = tmp_path_factory.mktemp("check") / "model.net"
        netx.write(network, path)
        worst = {finding.severity for finding in found_in(path).values()}
        assert "error" not in worst
        if network.target == "loihi2":
            on_chip = {finding.severity for finding in found_in(path, "loihi2").values()}
            assert "error" not in on_chip


BROKEN_NETWORKS = [
    # rule, network, target, options, severity, layer, text that the finding must contain
    ("output potentials fit for the timesteps", good(), "lava", {"timesteps": 17}, "error",
     None, ["T = 17", "+-131,071", "16", "`timesteps=17`"]),
    ("thresholds are balanced for the timesteps", good(), "lava", {"timesteps": 8}, "warning",
     None, ["T = 8", "T = 4", "`timesteps=8`"]),
    ("neurons reset as stock neurons do", good(reset="soft"), "loihi2", {}, "error",
     None, ["soft reset", "lava/proc/lif/models.py", "`target='loihi2'`"]),
    ("pixels enter as numbers", good(poisson_seed=0, pixel_bits=8), "lava", {}, "note",
     None, ["Poisson", "pixel / 255"]),
    ("pixels enter with eight bits", good(), "lava", {}, "note",
     None, ["pixels of 4 bits", "round(pixel / 255 x 15)"]),
    ("the reset interval is a power of two", good(timesteps=3), "loihi2", {}, "warning",
     None, ["T = 3", "every 4 steps", "power of two", "T = 4"]),
    # 4 taps x 127 x 15 = 7,620 a step: 63 + 7,620 before a reset, and -20 x 7,620.
    ("potentials stay in range", good(kernel=LARGE_KERNEL, timesteps=20, proven=20), "lava", {}, "note",
     "conv", ["-152,400..7,683", "T = 20", "+-131,071"]),
    # In each of 4 steps at most (3 + 1) x 15 and (2 + 2) x 15.
    ("every channel can fire", good(threshold=(241, 240)), "lava", {}, "warning",
     "conv", ["1 of 2 channels (0)", "never fire", "T = 4"]),
    # At least 200 - (1 + 2) x 15 = 155 in each step.
    ("no channel must fire at every step", good(bias=[0, 200], threshold=(60, 155)), "lava", {}, "warning",
     "conv", ["1 of 2 channels (1)", "every step", "diagnose"]),
    ("thresholds are eight bits times a power of two", good(reset="soft", threshold=(257, 64)), "loihi2", {}, "error",
     "conv", ["64..257", "m x 2^e", "neuron_model.py"]),
    ("biases are eight bits times a power of two", good(reset="soft", bias=[129, 0]), "loihi2", {}, "error",
     "conv", ["0..129", "m x 2^e"]),
    ("levels lie within one bias", good(reset="soft", threshold=(32640, 128)), "loihi2", {}, "error",
     "conv", ["127..32639", "8191"]),
    ("currents do not wrap", good(reset="soft", bias=[131071, 0]), "loihi2", {}, "error",
     "conv", ["131176", "131071"]),
    ("channels that never fire receive nothing", good(reset="soft", threshold=(limits.NEVER_FIRES, 64)), "loihi2", {},
     "error", "conv", ["never fires"]),
    ("one threshold per population", good(threshold=(64, 65)), "loihi2", {}, "error",
     "conv", ["2 different thresholds", "63..64", "vth of shape (1,)", "`target='loihi2'`"]),
    ("biases fit thirteen bits", good(bias=[0, 4096]), "loihi2", {}, "error",
     "conv", ["0..4,096", "-4096..4095", "13 bits", "lava/proc/lif/models.py"]),
    ("no pooling multiplies the weights", good(readout=POOLED_READOUT), "lava", {}, "note",
     "fc", ["72 weights", "each of the CNN's 9 times"]),
]  # fmt: skip


def assert_says(finding: Finding, severity: str, layer: str | None, named: Iterable[str]) -> None:
    assert (finding.severity, finding.layer) == (severity, layer)
    for fragment in named:
        assert fragment in finding.text


@pytest.mark.parametrize(
    ("rule", "network", "target", "options", "severity", "layer", "named"),
    BROKEN_NETWORKS,
    ids=[b[0] for b in BROKEN_NETWORKS],
)
def test_a_network_that_breaks_one_rule(
    check_network: Callable[..., dict[str, Finding]],
    rule: str,
    network: QuantizedNetwork,
    target: Target,
    options: dict[str, int],
    severity: str,
    layer: str | None,
    named: list[str],
) -> None:
    found = check_network(network, target, **options)
    assert rule in found, [finding.line for finding in found.values()]
    assert_says(found[rule], severity, layer, named)


def external_datasets(**changes: Any) -> Datasets:
    """The datasets that lava-dl reads of a good file; those of ``changes`` instead, or without those that are None."""
    datasets: Datasets = {name: value for name, value in encode(good()) if name.startswith("layer/")}
    datasets |= {name.replace("__", "/"): value for name, value in changes.items()}
    return {name: value for name, value in datasets.items() if value is not None}


def write(path: Path, datasets: Datasets) -> None:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file.create_dataset(name, data=value)


def weight(low: int, high: int) -> Array:
    return np.linspace(low, high, 72).round().astype(np.int32).reshape(4, 18)


def without_flatten() -> Datasets:
    """The changes that leave out the layer before the last."""
    last = {name.removeprefix("layer/3/"): value for name, value in encode(good()) if name.startswith("layer/3/")}
    named = {name.replace("/", "__"): value for name, value in last.items()}
    return {f"layer__2__{name}": value for name, value in named.items()} | {f"layer__3__{name}": None for name in named}


BROKEN_FILES = [
    # rule, changes, target, severity, layer, what its text must name
    ("layers are numbered from zero", {"layer__extra__type": b"flatten"}, "lava", "error",
     None, ["'extra'", "0, 1, 2, ...", "lava/lib/dl/netx"]),
    ("netx builds the layer", {"layer__2__type": b"average"}, "lava", "error",
     "layer/2", ["'average'", "raises an error", "input, conv, flatten, dense, dense_rec"]),
    ("netx builds the layer", {"layer__2__type": b"avgpool"}, "lava", "error", "layer/2", ["'avgpool'", "silently"]),
    ("what netx needs is there", {"layer__1__stride": None, "layer__1__neuron__vDecay": None}, "lava", "error",
     "layer/1", ["stride, neuron/vDecay missing", "shape, weight, stride, padding"]),
    ("the shape follows from the input", {"layer__1__shape": [2, 3, 4]}, "lava", "error",
     "layer/1", ["(2, 3, 4)", "(2, 3, 3)"]),
    ("the shape follows from the input", {"layer__3__weight": weight(-9, 9)[:, :17]}, "lava", "error",
     "layer/3", ["17", "18", "(2, 3, 3)"]),
    # 2 groups of 1 input channel each, and of one and a half output channels.
    ("the shape follows from the input",
     {"layer__0__shape": [2, 4, 4], "layer__1__groups": 2, "layer__1__weight": np.ones((3, 1, 2, 2)) - 2 * np.eye(2),
      "layer__1__shape": [3, 3, 3], "layer__1__bias": None, "layer__3__weight": weight(-9, 9).repeat(3, 1)[:, :27]},
     "lava", "error", "layer/1", ["2 groups of 3 output channels", "(2, 4, 4)"]),
    ("the neurons are known to netx", {"layer__1__neuron__type": b"HH"}, "lava", "error",
     "layer/1", ["HH neurons", "CUBA, LOIHI, SDNN, RF"]),
    ("the neurons are cuba or sigma delta", {"layer__1__neuron__type": b"RF_IZ"}, "lava", "note", "layer/1",
     ["RF_IZ neurons", "CUBA"]),
    ("graded spikes are the changes of an input", {"layer__1__neuron__type": b"SDNN"}, "lava", "note", None,
     ["sigma-delta neurons"]),
    ("biases and thresholds fit the state of a sigma delta neuron",
     {"layer__1__neuron__type": b"SDNN", "layer__1__neuron__vThMant": 2048}, "lava", "warning", "layer/1",
     ["vThMant 2,048", "2,047"]),
    ("biases and thresholds fit the state of a sigma delta neuron",
     {"layer__1__neuron__type": b"SDNN", "layer__1__bias": np.full(3, -(2**31), np.int32)}, "lava", "warning",
     "layer/1", ["bias -2,147,483,648", "2,047"]),
    ("weights are whole numbers", {"layer__3__weight": weight(-9, 9) / 4}, "lava", "error",
     "layer/3", ["weights are not integers"]),
    ("dense weights fit a synapse", {"layer__3__weight": weight(-300, 300)}, "lava", "error",
     "layer/3", ["-300..300", "-256..254"]),
    ("dense weights fit a synapse", {"layer__3__weight": weight(1, 256)}, "lava", "error",
     "layer/3", ["1..256", "-255..255"]),
    ("dense weights fit a synapse", {"layer__3__weight": weight(-256, -1)}, "lava", "error",
     "layer/3", ["-256..-1", "-255..255"]),
    ("kernels fit a synapse", {"layer__1__weight": np.array([[[[300]]], [[[-2]]]]).repeat(4, 1).reshape(2, 1, 2, 2)},
     "loihi2", "error", "layer/1", ["-2..300", "-256..254", "8 bits"]),
    ("dense layers follow a flatten", without_flatten(), "lava", "error",
     "layer/2", ["maps of shape (2, 3, 3)", "layer flatten"]),
    ("the geometry fits eight bits",
     {"layer__1__stride": np.array([128, 128]), "layer__1__shape": np.array([2, 1, 1]),
      "layer__2__shape": np.array([2]), "layer__3__weight": np.array([[1, -2], [3, -4], [5, -6], [7, -8]])},
     "lava", "warning", "layer/1", ["stride 128", "at most 127", "lava/proc/conv/models.py"]),
    ("large kernels are even", {"layer__1__weight": np.array([[[[201]]], [[[-129]]]]).repeat(4, 1).reshape(2, 1, 2, 2)},
     "loihi2", "warning", "layer/1", ["8 odd weights"]),
    ("large dense weights are even", {"layer__3__weight": 2 * weight(-90, 90) + np.eye(4, 18, dtype=np.int32)}, "lava",
     "warning", "layer/3", ["4 odd weights", "+-127"]),
    ("dense weights have both signs", {"layer__3__weight": weight(0, 90)}, "lava", "warning",
     "layer/3", ["negative weight", "lava-dl"]),
    ("decays fit twelve bits", {"layer__1__neuron__iDecay": 4097}, "lava", "error",
     "layer/1", ["iDecay 4,097", "0..4096", "lava/proc/lif/models.py"]),
    ("thresholds fit seventeen bits", {"layer__1__neuron__vThMant": 2**17}, "lava", "error",
     "layer/1", ["vThMant 131,072", "0..131071", "17 bits"]),
    ("thresholds fit seventeen bits", {"layer__1__neuron__vThMant": float("nan")}, "lava", "error",
     "layer/1", ["vThMant nan"]),
    ("thresholds fit seventeen bits", {"layer__1__neuron__vThMant": np.float16(1.5)}, "lava", "error",
     "layer/1", ["vThMant 1.5"]),
    ("biases fit sixteen bits", {"layer__1__bias": np.array([0, -32769])}, "lava", "warning",
     "layer/1", ["-32,769..0", "-32768..32767", "int16"]),
    ("delays are short", {"layer__3__delay": np.array([3, 64])}, "lava", "warning", "layer/3", ["3..64", "62 steps"]),
    ("spikes have no bit widths", {"layer__1__neuron__messageBits": 8}, "lava", "error",
     "layer/1", ["neuron/messageBits"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "changes", "target", "severity", "layer", "named"), BROKEN_FILES)
def test_a_file_of_another_program_that_breaks_one_rule(
    tmp_path: Path, rule: str, changes: Datasets, target: Target, severity: str, layer: str | None, named: list[str]
) -> None:
    path = tmp_path / "external.net"
    write(path, external_datasets(**changes))
    found = found_in(path, target)
    refusal = found.pop("this package can read the file", None)
    # Another program may run a file that this package cannot run.
    assert refusal is None or refusal.severity == "note"
    assert {name for name, finding in found.items() if finding.severity == "error"} <= {rule}
    assert_says(found[rule], severity, layer, named)


@pytest.mark.parametrize(("bias", "target", "severity"), [(5_000, "loihi2", "error"), (40_000, "lava", "warning")])
def test_biases_of_a_layer_without_neurons_are_those_of_a_lif(
    tmp_path: Path, bias: int, target: Target, severity: str
) -> None:
    datasets = {name: value for name, value in external_datasets().items() if not name.startswith("layer/3/neuron")}
    write(tmp_path / "external.net", datasets | {"layer/3/bias": np.array([bias, 0, 0, 0])})
    rule = "biases fit thirteen bits" if target == "loihi2" else "biases fit sixteen bits"
    assert_says(found_in(tmp_path / "external.net", target)[rule], severity, "layer/3", [f"0..{bias:,}"])


def test_nothing_is_found_in_a_good_file_of_another_program(tmp_path: Path) -> None:
    write(tmp_path / "external.net", external_datasets())
    assert found_in(tmp_path / "external.net", "loihi2") == {}


def chips_of(path: Path) -> Chips | None:
    return checking.check(load_file(path)).chips


def dense(neurons: int, inputs: int) -> LayerData:
    """Return nonzero weights of both signs."""
    ones = np.ones((neurons, inputs), np.float32)
    ones[0] = -1
    return {"type": "dense", "shape": [neurons], "weight": ones, "neuron": NEURON}


def test_a_file_that_begins_with_a_dense_layer_is_counted_from_it(tmp_path: Path) -> None:
    """All 10 neurons after the 1,000 receive each. 250 words a row hold 799 neurons of 64 inputs, 125 words 399."""
    path = write_external(tmp_path / "dense.net", [dense(1000, 64), dense(10, 1000)])
    assert found_in(path) == {}
    chips = chips_of(path)
    assert chips is not None
    assert [layer.name for layer in chips.layers] == ["layer/0", "layer/1"]
    first = chips.layers[0]
    assert (first.neurons, first.fan_in, first.fan_out, first.synapses) == (1000, 64, 10, 64_000)
    assert (first.cores, first.limit, first.tile) == ((2, 3), "synaptic memory", None)
    assert (first.core_neurons, first.core_words) == (500, 64 * 157)


def recurrent(recurrent_weights: int) -> LayerData:
    """5 neurons of 4 inputs, whose recurrent weights are 1, but for the diagonal: 0."""
    weights = (np.ones((5, 5), np.float32) - np.eye(5, dtype=np.float32)).reshape(-1)
    return dense(5, 4) | {"type": "dense_rec", "weight_rec": weights[:recurrent_weights]}


def test_recurrent_synapses_are_counted(tmp_path: Path) -> None:
    """A neuron hears 4 inputs and 4 of its own layer, and reaches those and 3 readouts."""
    chips = chips_of(write_external(tmp_path / "recurrent.net", [recurrent(25), dense(3, 5)]))
    assert chips is not None
    layer = chips.layers[0]
    assert (layer.neurons, layer.fan_in, layer.fan_out) == (5, 4 + 4, 4 + 3)
    assert (layer.synapses, layer.weights) == (5 * 4 + 20, 5 * 4 + 25)
    # 4 + 5 rows of 5 synapses: ceil(28 / 16) words each.
    assert (layer.core_words, layer.cores) == (9 * 2, (1, 1))


@pytest.mark.parametrize(
    ("rule", "weight", "recurrent_weight", "named"),
    [
        ("weights are whole numbers", [-1, 1], [1, 0.5], "1 weights"),
        ("dense weights fit a synapse", [-1, 1], [1, 256], "-1..256"),
        ("large dense weights are even", [-1, 2], [3, 200], "2 odd weights"),
        ("dense weights have both signs", [1, 2], [3, 4], "without a negative weight"),
        ("dense weights have both signs", [1, 2], [-3, 4], None),
    ],
)
def test_recurrent_weights_keep_the_rules_together_with_the_others(
    tmp_path: Path, rule: str, weight: list[float], recurrent_weight: list[float], named: str | None
) -> None:
    """One neuron of two inputs would need one recurrent weight; the other rules look at all there are."""
    layer = dense(1, 2) | {"type": "dense_rec", "weight": np.array([weight]), "weight_rec": np.array(recurrent_weight)}
    found = found_in(write_external(tmp_path / "recurrent.net", [layer, dense(3, 1)]))
    if named is None:
        assert rule not in found
    else:
        assert_says(found[rule], found[rule].severity, "layer/0", [named])
        assert "loihi-convert run" not in found[rule].fix


def test_recurrent_weights_of_other_neurons(tmp_path: Path) -> None:
    path = write_external(tmp_path / "recurrent.net", [recurrent(24), dense(3, 5)])
    assert chips_of(path) is None
    found = found_in(path)["the shape follows from the input"]
    assert_says(found, "error", "layer/0", ["24 recurrent weights", "5 neurons", "(4,)"])


def test_no_total_without_every_layer(tmp_path: Path) -> None:
    """The input size of a convolution is only known if the file records it."""
    assert chips_of(write_external(tmp_path / "whole.net", small_layers())) is not None
    assert chips_of(write_external(tmp_path / "headless.net", small_layers()[1:])) is None
    pooled = [dense(8, 8), {"type": "average", "shape": [8]}, dense(4, 8)]
    assert chips_of(write_external(tmp_path / "pooled.net", pooled)) is None
    odd = [dense(3, 5) | {"weight": np.ones(16, np.float32)}]
    found = found_in(write_external(tmp_path / "odd.net", odd))["the shape follows from the input"]
    assert_says(found, "error", "layer/0", ["16 weights", "3 neurons", "unknown"])


NONSENSE = [
    np.array(np.nan), np.array(-1), np.array(0), np.array(2**31 - 1), np.array([0, 2**30]), np.zeros((0, 3)),
    np.array(True), np.full((2, 3), np.inf), b"", b"\x1b[31m", "text", np.zeros((1, 1, 1, 1, 1)),
]  # fmt: skip


@pytest.mark.slow
def test_whatever_a_file_says_there_is_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "external.net"
    names = sorted(external_datasets())
    for index, name in enumerate(names):
        for offset, value in enumerate(NONSENSE):
            # A second change, so that assumptions of one rule about another are also violated.
            other = {names[(7 * index + offset) % len(names)]: NONSENSE[(offset + index) % len(NONSENSE)]}
            write(path, external_datasets() | other | {name: value})
            for finding in found_in(path, "loihi2").values():
                assert finding.line.isprintable()


def test_every_rule_has_a_network_that_breaks_it() -> None:
    rules = (*FILE_RULES, *STOCK_RULES, *STOCK_LIF_RULES, *NETWORK_RULES, *LAYER_RULES, *CIRCUIT_RULES, *MEMORY_RULES)
    names = {rule.claim.__name__.replace("_", " ") for rule in (*rules, *NEUROCORE_RULES, *ACTIVITY_RULES)}
    tested = {case[0] for case in (*BROKEN_NETWORKS, *BROKEN_FILES, *BROKEN_SIZES, *BROKEN_ACTIVITIES)}
    assert tested == names


def test_a_refused_native_file_says_why_and_what_else_is_wrong(tmp_path: Path) -> None:
    """Digests that match, but a weight of 255 from another tool: the refusal, and what netx would do."""
    path = tmp_path / "model.net"
    datasets = dict(encode(good()))
    datasets["layer/3/weight"] = datasets["layer/3/weight"].astype(np.int32)
    datasets["layer/3/weight"][0, 0] = 255
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file.create_dataset(name, data=value)
        file.attrs["content_sha256"] = netx.hdf5.content_sha256(datasets)
    found = found_in(path)
    assert found["this package can read the file"].severity == "error"
    assert (
        "breaks the rule 'weights fit eight bits': a weight of magnitude 255"
        in found["this package can read the file"].line
    )
    assert_says(found["dense weights fit a synapse"], "error", "layer/3", ["-35..255", "-256..254"])


def test_a_damaged_file_is_not_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(good(), path)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    (finding,) = found_in(path).values()
    assert_says(finding, "error", None, ["damaged: ", "seal"])


def test_resources_by_hand() -> None:
    """2 kernels of 2 x 2 on 4 x 4 pixels: 18 neurons with 4 synapses each, 8 weights.

    A pixel in the middle reaches 2 x 4 neurons, and each of the 18 neurons all 4 of the readout, but for the one weight
    that is 0: 71 synapses. 4 taps are rows of one word, and 18 inputs rows of ceil(23 / 16). Of 3 columns a tile has 2.
    """
    chips = network_resources(good())
    first, last = chips.layers
    assert (first.neurons, first.fan_in, first.fan_out, first.synapses, first.weights) == (18, 4, 4, 72, 8)
    assert (first.cores, first.tile, first.limit, first.core_words) == ((2, 2), (2, 3, 2), "tile width", 4)
    assert (last.neurons, last.fan_in, last.fan_out, last.synapses, last.weights) == (4, 18, 0, 71, 72)
    assert last.cores == (1, 1)
    assert last.core_words == 18 * 2
    assert (chips.cores, chips.source_cores) == ((3, 3), 0)


def test_the_soft_reset_circuit_is_counted_for_the_chip() -> None:
    """Each of the 18 neurons inhibits itself: 18 more synapses. The bias source reaches the 3 readouts whose bias is
    not 0, in 2 words; its spike passes one neuron on the way, which has a core.
    """
    network = good(reset="soft", readout=replace(READOUT, bias=np.arange(4, dtype=np.int32)))
    plain, chips = network_resources(network), network_resources(network, has_circuit=True)
    for layer, other, self_synapses, bias in zip(plain.layers, chips.layers, (18, 0), (0, 3), strict=True):
        assert other.fan_in == layer.fan_in + bool(self_synapses) + bool(bias)
        assert other.fan_out == layer.fan_out + bool(self_synapses)
        assert other.synapses == layer.synapses + self_synapses + bias
    # A core has two of the three columns.
    assert [layer.core_words for layer in chips.layers] == [4 + 12, 18 * 2 + 2]
    assert (chips.cores, chips.source_cores) == ((3 + 1, 3 + 1), 1)
    assert "stock circuit" in chips.boundary


def test_channels_that_never_fire_have_no_synapse_to_themselves() -> None:
    """The 9 neurons of the first channel are reset and have a bias; those of the second have neither."""
    network = good(reset="soft", threshold=(64, limits.NEVER_FIRES), bias=[5, 0])
    plain, chips = network_resources(network), network_resources(network, has_circuit=True)
    assert chips.layers[0].synapses == plain.layers[0].synapses + 9 + 9
    assert (chips.layers[0].fan_in, chips.layers[0].fan_out) == (4 + 2, 4 + 1)


@pytest.mark.parametrize(
    ("shape", "synapse", "fan_in"),
    [
        # Of the 9 taps, as many meet the input as it has pixels.
        ((512, 2, 2), Conv(np.ones((3, 512, 3, 3)), padding=(1, 1)), 512 * 4),
        ((2, 1, 3), Conv(np.ones((1, 2, 3, 3)), padding=(1, 1)), 2 * 3),
        # In each axis, taps are at -2, 1, 4, or -1, 2, 5, or 0, 3, 6.
        ((1, 5, 5), Conv(np.ones((1, 1, 3, 3)), padding=(2, 2), dilation=(3, 3)), 4),
        # 4 taps meet the map; 2 of them are on the diagonal, at opposite corners.
        ((1, 2, 2), Conv(np.eye(3).reshape(1, 1, 3, 3), padding=(1, 1)), 2),
        ((1, 4, 4), Conv(np.ones((1, 1, 3, 3)), padding=(1, 1), pool=(2, 2)), 4 * 4),
    ],
)
def test_taps_on_the_padding_are_no_synapses(shape: tuple[int, ...], synapse: Conv, fan_in: int) -> None:
    (layer,) = resources(shape, [Populated("conv", synapse)]).layers
    assert layer.fan_in == fan_in
    assert layer.synapses == synapse.fan_in(shape).sum() == synapse.fan_out(shape).sum()


def test_output_neurons_reset_by_the_circuit_too() -> None:
    network = good(reset="soft")
    *layers, last = network.layers
    neuron = IntegerNeuron(np.full(4, 640, np.int32), np.zeros(4, np.int32))
    network = replace(network, layers=(*layers, replace(last, neuron=neuron)))
    plain, chips = network_resources(network), network_resources(network, has_circuit=True)
    assert chips.layers[-1].synapses == plain.layers[-1].synapses + 4


def test_each_kind_of_neuron_side_by_side() -> None:
    """The network above: the circuit has 18 + 3 synapses more, and a neuron and a core for the bias source's spike.

    With graded spikes the 4 biases are synapses from a third channel of 9 neurons.
    """
    network = good(reset="soft", readout=replace(READOUT, bias=np.arange(4, dtype=np.int32)))
    assert [(cost.neurons, cost.cores, cost.neuron_count, cost.synapses) for cost in neuron_costs(network)] == [
        ("own", (3, 3), 22, 72 + 71),
        ("circuit", (4, 4), 23, 72 + 71 + 18 + 3),
        ("LIF", (3, 3), 22, 72 + 71),
        ("graded", (3, 3), 22 + 9, 72 + 71 + 4),
    ]


def test_the_comparison_is_made_on_request(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(good(), path)
    loaded = load_file(path)
    assert checking.check(loaded).compared == ()
    assert checking.check(loaded, options=CheckOptions(compare=True)).compared == neuron_costs(good())


BROKEN_SIZES = [
    # 64 channels of 64 x 64 neurons: a tile has 2,048, a power of two. One core more for the last layer.
    ("the network fits the chips", (1, 64, 64),
     [("conv", Conv(np.ones((64, 1, 1, 1)))), ("last", Conv(np.ones((1, 64, 1, 1)), stride=(64, 64)))],
     "error", None, ["129 neurocores", "128", "technology brief", "2 chips (`chips=2`)"]),
    # 4 words a row hold 12 neurons, 2 words 5.
    ("the network surely fits the chips", (4000,), [("fc", Dense(np.ones((1200, 4000), np.int8)))],
     "warning", None, ["100 to 240 neurocores", "128"]),
    ("the synapses of a neuron fit one core", (16_001,), [("fc", Dense(np.ones((1, 16_001))))], "error",
     "fc", ["16,001 inputs", "16,000 axons"]),
    # 6 x 6 taps of 512 channels are 18,432 rows, of a word at least.
    ("the synapses of a neuron fit one core", (512, 6, 6), [("conv", Conv(np.ones((4, 512, 3, 3)), pool=(2, 2)))],
     "error", "conv", ["18,432 words", "16,000"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "shape", "synapses", "severity", "layer", "named"), BROKEN_SIZES)
def test_a_network_too_large(
    rule: str, shape: Any, synapses: Any, severity: str, layer: str | None, named: list[str]
) -> None:
    chips = resources(shape, [Populated(*one) for one in synapses])
    found = {
        finding.rule: finding
        for finding in (
            *findings(NEUROCORE_RULES, [(None, chips)], "loihi2"),
            *findings(MEMORY_RULES, [(layer.name, layer) for layer in chips.layers], "loihi2"),
        )
        if finding.rule != "no pooling multiplies the weights"
    }
    assert_says(found[rule], severity, layer, named)


def test_more_chips_are_advised_only_if_they_help() -> None:
    """129 cores need 2 chips, and fit those; the synapses of the neurons of a layer of 16,001 inputs fit no core."""
    shape, large = (1, 64, 64), [Populated(*one) for one in BROKEN_SIZES[0][2]]  # type: ignore[attr-defined]
    assert resources(shape, large).needed == 2
    on_two = findings(NEUROCORE_RULES, [(None, resources(shape, large, chips=2))], "loihi2")
    assert "the network fits the chips" not in {finding.rule for finding in on_two}
    layers = [Populated("conv", Conv(np.ones((64, 1, 1, 1)))), Populated("fc", Dense(np.ones((1, 2**18))))]
    (found,) = findings(NEUROCORE_RULES, [(None, resources(shape, layers))], "loihi2")
    assert found.fix == "Use fewer channels, or a stride instead of a pooling."


@given(networks())
@settings(max_examples=6, deadline=None)
def test_potentials_and_spikes_keep_to_the_bounds(case: Case) -> None:
    """Checked on random images; the potential after the reset is never above the potential before it."""
    network, images = case
    result = run_network(network, images, 5, trace=True)
    for (_, run), trace in zip(layer_runs(NetworkRun(network, 5)), result.traces, strict=True):
        if run.layer.neuron is None or trace.spikes is None:
            continue
        by_channel = np.moveaxis(trace.potentials, 2, -1).reshape(-1, run.layer.synapse.channels)
        assert (by_channel.max(axis=0) <= np.maximum(run.highest_potential, 0)).all()
        # What clips ends above the bound.
        assert (by_channel.min(axis=0) >= np.maximum(run.lowest_potential, -limits.THRESHOLD_LIMIT)).all()
        spikes = np.moveaxis(trace.spikes, 2, -1).reshape(-1, run.layer.synapse.channels)
        cannot = run.highest_potential < run.layer.neuron.threshold
        must = run.current_bounds[0] >= run.layer.neuron.threshold
        assert not spikes[:, cannot].any()
        assert spikes[:, must].all()


def test_the_highest_potential_by_hand() -> None:
    """Threshold 100, V0 = 50, a current of 130: 180 before the first reset, then 80 + 130 = 210 and 110 + 130 = 240.

    The bounds: 50 + 3 x 130 = 440, and 99 + 130 + 2 x 30 = 289. With hard reset 99 + 130 = 229.
    """
    neuron = IntegerNeuron(np.array([100], np.int32), np.array([50], np.int32))
    layer = QuantizedLayer("fc", Dense(np.array([[130]], np.int32)), neuron, np.ones(1))
    assert LayerRun(layer, "soft", 3).highest_potential == [289]
    assert LayerRun(layer, "hard", 3).highest_potential == [229]
    assert LayerRun(layer, "soft", 1).highest_potential == [180]
    # What `export --target loihi2` proves: after the first step 99 + 130 once, 30 more in the third; u is V - V0, and
    # -50 after a spike that leaves 0.
    assert LayerRun(layer, "soft", 3, is_circuit=True, is_constant=True).range == (-50, 259)
    # A small current: 50 + 2 x 1 = 52, where `potential_bounds` says 99 + 1. So neither bound replaces the other.
    faint = replace(layer, synapse=Dense(np.array([[1]], np.int32)))
    assert LayerRun(faint, "soft", 2).highest_potential == [52]
    assert LayerRun(faint, "soft", 2, is_circuit=True, is_constant=True).range == (-50, 100)


def test_a_potential_that_clips_never_reaches_the_threshold_of_a_dead_channel() -> None:
    """200 x 1000 is beyond 131,072, the threshold, but a potential ends at 131,071."""
    neuron = IntegerNeuron(np.array([131_072, 131_071], np.int32), np.zeros(2, np.int32))
    layer = QuantizedLayer("fc", Dense(np.full((2, 2), 100, np.int32)), neuron, np.ones(2))
    assert LayerRun(layer, "soft", 1000).can_fire.tolist() == [False, True]


BROKEN_ACTIVITIES = [
    ("every channel is active", Activity(20, np.array([0, 0.5, 0]), np.array([True, True, False])), "warning",
     ["1 of 3 channels (0)", "20 images"]),
    ("no channel is active at every step", Activity(20, np.array([1, 0.5]), np.ones(2, np.bool_)), "warning",
     ["1 of 2 channels (0)", "20 images", "`percentile=99.9`"]),
    ("no potential meets the upper end", Activity(20, np.array([0.5]), np.ones(1, np.bool_), 0, 3), "warning",
     ["3 of 20 images", " 131,071", "`diagnose`"]),
    ("no potential meets the lower end", Activity(20, np.array([0.5]), np.ones(1, np.bool_), 3, 0), "note",
     ["3 of 20 images", "-131,071"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "activity", "severity", "named"), BROKEN_ACTIVITIES)
def test_what_channels_do_on_images(rule: str, activity: Activity, severity: str, named: list[str]) -> None:
    (finding,) = findings(ACTIVITY_RULES, [("conv", activity)], "lava")
    assert finding.rule == rule
    assert_says(finding, severity, "conv", named)


def test_a_current_that_wraps() -> None:
    (finding,) = findings(NETWORK_ACTIVITY_RULES, [(None, NetworkActivity((), 20, 3))], "loihi2")
    assert_says(finding, "warning", None, ["3 of 20 images", "+-131,071"])
    assert list(findings(NETWORK_ACTIVITY_RULES, [(None, NetworkActivity((), 20, 0))], "loihi2")) == []


@pytest.mark.parametrize(
    ("name", "words"), [("conv", "conv"), ("layer1.0", "layer1.0"), ("9", "layer 9"), ("3 (rows)", "layer 3 (rows)")]
)
def test_a_finding_is_one_line(name: str, words: str) -> None:
    """Numbers name the layers of an `nn.Sequential`."""
    finding = Finding(severity="note", rule="r", layer=name, found="a", limit="b", source="c", fix="D.")
    assert finding.line == f"note: {words}: a; b (c). D."


def test_channels_are_looked_at_by_running_the_network(check_network: Callable[..., dict[str, Finding]]) -> None:
    """Black images: no input, so no channel fires. White images: (3 - 1 - 2 + 1) x 15 = 15 per step, 60 in four."""
    black = np.zeros((2, 1, 4, 4), np.uint8)
    assert set(check_network(circuit(), "loihi2", images=black)) == {"every channel is active", BY_LAVA_DL}
    silent = check_network(good(), images=black)["every channel is active"]
    assert_says(silent, "warning", "conv", ["2 of 2 channels (0, 1)", "2 images"])
    lower = good(threshold=(15, 15))
    always = check_network(lower, images=black + 255)["no channel is active at every step"]
    assert_says(always, "warning", "conv", ["2 of 2 channels (0, 1)", "2 images"])
    with pytest.raises(DataError) as caught:
        check_network(good(), images=np.zeros((2, 1, 4, 5), np.uint8))
    assert (caught.value.where, "(1, 4, 5)" in caught.value.found) == ("images", True)
    assert "(1, 4, 4)" in caught.value.expected


def one_neuron(weight: int, bias: int, threshold: int, poisson_seed: int | None = None) -> QuantizedNetwork:
    """A neuron for one pixel, with soft reset, and a readout; T = 8."""
    synapse = Dense(np.array([[weight]], np.int32), np.array([bias], np.int32))
    neuron = IntegerNeuron(np.array([threshold], np.int32), np.zeros(1, np.int32))
    largest = 255 if poisson_seed is None else 1
    layers = (
        QuantizedLayer("hidden", synapse, neuron, np.ones(1), largest),
        QuantizedLayer("output", Dense(np.ones((1, 1), np.int32)), None, np.ones(1)),
    )
    return QuantizedNetwork((1, 1, 1), layers, 8, 8, 8, "soft", poisson_seed=poisson_seed)


def test_clipping_is_reported_where_it_may_change_spikes(check_network: Callable[..., dict[str, Finding]]) -> None:
    white = np.full((2, 1, 1, 1), 255, np.uint8)
    # 5 x 127 x 255 = 161,925, which is clipped to the threshold: the reset leaves 0 instead of 30,854.
    found = check_network(one_neuron(127, 0, limits.POTENTIAL_LIMIT), images=white)
    assert_says(found["no potential meets the upper end"], "warning", "hidden", ["2 of 2 images", " 131,071"])
    # 127 x 255 + 100,000 = 132,385 a step: clipped at once, and above each of these thresholds, so each step fires.
    for threshold, is_reported in ((64, False), (65_535, False), (65_536, True)):
        network = one_neuron(127, 100_000, threshold)
        clips = network_activity(network, white, 8).layers[0][1].high_clipped
        reported = "no potential meets the upper end" in check_network(network, images=white)
        assert (clips, reported) == (2 * is_reported, is_reported)
    # -20,000 in each of eight steps. With a constant current the neuron never fires; after a spike it might.
    assert "no potential meets the lower end" not in check_network(one_neuron(0, -20_000, 64), images=white)
    found = check_network(one_neuron(1, -20_000, 64, poisson_seed=0), images=white)
    assert_says(found["no potential meets the lower end"], "note", "hidden", ["2 of 2 images", "-131,071"])


def test_a_channel_that_cannot_fire_is_named_once(check_network: Callable[..., dict[str, Finding]]) -> None:
    """Without weights that takes no threshold of its own, as where a layer has one for all."""
    kernel = [KERNEL[0], [[[0, 0], [0, 0]]]]
    white = np.full((2, 1, 4, 4), 255, np.uint8)
    found = check_network(good(kernel=kernel, threshold=(16, 16)), images=white)
    assert set(found) == {"every channel can fire", "pixels enter with eight bits"}
    assert_says(found["every channel can fire"], "warning", "conv", ["1 of 2 channels (1)"])


def test_silent_classes_are_not_to_be_pruned(check_network: Callable[..., dict[str, Finding]]) -> None:
    """White: 15 a step, so the convolution fires in the last of four, and class 3 gets 18 + .. + 35 = 477 once.

    The first two classes have only weights below 0, and the third 0..17: at most 153 a step.
    """
    network = good(threshold=(60, 60))
    neuron = IntegerNeuron(np.array([9, 9, 4 * 153 + 1, 2 * 477], np.int32), np.zeros(4, np.int32))
    layers = (network.layers[0], replace(network.layers[1], neuron=neuron))
    found = check_network(replace(network, layers=layers), images=np.full((2, 1, 4, 4), 255, np.uint8))
    assert_says(found["every channel can fire"], "warning", "fc", ["3 of 4 classes (0, 1, 2)", "T = 4"])
    assert_says(found["every channel is active"], "warning", "fc", ["1 of 4 classes (3)", "2 images"])
    for rule in ("every channel can fire", "every channel is active"):
        assert "`method`" in found[rule].fix
        assert "prune" not in found[rule].fix.lower()


def test_silent_channels_of_the_cnn() -> None:
    """The first channel is always positive, which is not saturation."""
    kernel = np.array([[[[1.0]]], [[[-1.0]]]])
    layers = (ReluLayer("conv", Conv(kernel)), ReluLayer("fc", Dense(np.ones((2, 8)))))
    cnn, images = ReluNetwork((1, 2, 2), layers), np.full((3, 1, 2, 2), 255, np.uint8)
    ((name, activity),) = cnn_activity(cnn, images)
    assert name == "conv"
    assert activity.firing_rate.tolist() == [1, 0]
    (finding,) = checking.check(LoadedFile(Path("model.pt"), cnn), images).findings
    assert_says(finding, "warning", "conv", ["1 of 2 channels (1)", "3 images"])


def test_only_neurons_that_can_compute_the_network_are_compared() -> None:
    """Sigma-delta neurons have neither a ceiling nor a network of a single layer."""
    dense = ReluLayer("fc", Dense(np.ones((2, 4))))
    hidden = ReluLayer("conv", Conv(np.ones((1, 1, 1, 1))))
    clipped = replace(hidden, ceiling=np.array([6.0]))
    for layers, can_be_graded in (((hidden, dense), True), ((clipped, dense), False), ((dense,), False)):
        cnn = LoadedFile(Path("model.pt"), ReluNetwork((1, 2, 2), layers))
        kinds = [cost.neurons for cost in checking.check(cnn, options=CheckOptions(compare=True)).compared]
        assert kinds == ["own", "circuit", "LIF", *(["graded"] if can_be_graded else [])]


class WithTanh(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


def test_what_convert_refuses_is_named_before_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "candidates.py").write_text(
        "from torch import nn\n"
        "def plain():\n    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))\n"
        "def tanh():\n"
        "    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(WithTanh().state_dict(), "tanh.pt")
    candidate = load_file(Path("tanh.pt"), arch="candidates:tanh", input_shape=(1, 4, 4))
    (finding,) = checking.check(candidate, options=CheckOptions(compare=True)).findings
    assert finding.severity == "error"
    assert "Tanh" in finding.line
    # The options for its images do not hide it.
    np.savez("own.npz", images=np.zeros((3, 4, 4), np.uint8))
    code, out, _ = invoke("tanh.pt", "--arch", "candidates:tanh", "--data", "own.npz", "--images", 2)
    assert code == 3
    assert "Tanh" in out
    torch.save(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).state_dict(), "plain.pt")
    with pytest.raises(InputError, match=r"does not accept images of shape \(4, 4, 1\)"):
        load_file(Path("plain.pt"), arch="candidates:plain", input_shape=(4, 4, 1))
    candidate = load_file(Path("plain.pt"), arch="candidates:plain", input_shape=(1, 4, 4))
    checked = checking.check(candidate, options=CheckOptions("loihi2"))
    assert checked.findings == ()
    assert checked.chips is not None
    assert [layer.neurons for layer in checked.chips.layers] == [8, 3]
    with pytest.raises(UsageError, match=r"given for plain\.pt") as caught:
        checking.check(candidate, options=CheckOptions(timesteps=4))
    assert caught.value.where == "timesteps"


@pytest.mark.parametrize("name", ["model.pth", "model.ckpt", "model", "model.h5"])
def test_a_checkpoint_is_known_by_its_content_and_a_missing_option_is_not_a_verdict(tmp_path: Path, name: str) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / name)
    with pytest.raises(CheckpointError, match="holds only weights") as caught:
        load_file(tmp_path / name)
    assert "`arch=" in caught.value.hint


@pytest.mark.parametrize(("spike_exp", "most"), [(6, 2**11 - 1), (0, 2**17 - 1)])
def test_biases_of_sigma_delta_neurons_are_shifted_by_the_exponents_of_the_file(spike_exp: int, most: int) -> None:
    """24 bits, less 6 of `state_exp`, less `spike_exp`, which files of this package set to 0."""
    datasets = {"neuron/type": np.array(b"SDNN"), "bias": np.array([0, most])}
    layer = StockLayer("dense", datasets, None, spike_exp=spike_exp)
    assert not any(biases_and_thresholds_fit_the_state_of_a_sigma_delta_neuron(layer))
    layer = replace(layer, datasets={**datasets, "bias": np.array([0, most + 1])})
    assert any(biases_and_thresholds_fit_the_state_of_a_sigma_delta_neuron(layer))


def test_a_geometry_that_is_not_finite_or_too_large_is_read_as_minus_1() -> None:
    layer = StockLayer("conv", {"shape": np.array([np.nan, -np.inf, 2.0**40, 3.7])}, None)
    assert layer.stored_shape == (-1, -1, -1, 3)


def test_a_padding_beyond_memory_is_refused_although_few_neurons_read_it() -> None:
    """Two positions along each axis, 2^21 apart."""
    geometry = {"weight": np.ones((1, 1, 1, 1)), "stride": 2**21, "padding": 2**20, "dilation": 1, "groups": 1}
    layer = StockLayer("conv", {name: np.array(value) for name, value in geometry.items()}, (1, 4, 4))
    with pytest.raises(InputError, match=r"padding \(1048576, 1048576\), stride"):
        _ = layer.output_shape


def test_input_neurons_have_a_threshold_also_beside_sigma_output() -> None:
    given = ("shape", "neuron/type", "neuron/sigma_output")
    datasets = {**dict.fromkeys(given, np.array(1)), "neuron/type": np.array(b"SDNN")}
    assert StockLayer("input", datasets, None).missing == ("neuron/vThMant",)
    assert StockLayer("dense", {**datasets, "weight": np.ones((1, 1))}, None).missing == ()


def test_a_netx_file_may_have_another_suffix(tmp_path: Path) -> None:
    netx.write(good(pixel_bits=8), tmp_path / "model.h5")
    assert found_in(tmp_path / "model.h5") == {}


def test_export_prints_what_concerns_unmodified_lava_dl() -> None:
    assert lava_dl_notes(circuit()) == ()
    assert lava_dl_notes(good(pixel_bits=8)) == ()
    (pixels,) = lava_dl_notes(good())
    assert pixels.startswith("pixels of 4 bits; netx does not round them.")
    assert "round(pixel / 255 x 15)" in pixels
    (thresholds,) = lava_dl_notes(good(threshold=(64, 65), bias=[0, 4096], pixel_bits=8))
    assert thresholds.startswith("not usable on Loihi 2: conv: 2 different thresholds")
    # Each of these is a file of hard reset, which target loihi2 refuses.
    assert thresholds.endswith("Export with `thresholds='scalar'`, or with `target='loihi2'` and `reset='soft'`.")
    (biases,) = lava_dl_notes(good(bias=[0, 4096], pixel_bits=8))
    assert biases.startswith("not usable on Loihi 2: conv: bias 0..4,096; must be in -4096..4095")
    assert biases.endswith("Export with `target='loihi2'` and `reset='soft'`, where a bias has an exponent.")
    (poisson,) = lava_dl_notes(good(poisson_seed=0, pixel_bits=8))
    assert "Poisson" in poisson
    (positive,) = lava_dl_notes(good(reset="soft", bias=[40_000, 0], readout=Dense(np.ones((4, 18), np.int32))))
    assert positive.startswith("fc: a dense layer without a negative weight")


@pytest.mark.parametrize("target", ["lava", "loihi2"])
def test_without_images_a_note_says_what_unmodified_lava_dl_does_otherwise(
    check_network: Callable[..., dict[str, Finding]], target: Target
) -> None:
    (finding,) = check_network(circuit(), target).values()
    fix = "export with `reset='hard'` and `target='lava'`"
    assert_says(finding, "note", None, ["another network", "reset to 0", "lava/proc/lif/models.py", fix])
    assert not any(word in finding.limit for word in ("start at 0", "wrap"))


def test_unmodified_lava_dl_is_measured_beside_ref(check_network: Callable[..., dict[str, Finding]]) -> None:
    """Threshold 64, V0 63 and 3 x 15 = 45 a step: soft reset fires in steps 1, 2 and 3, Lava's LIF in 2 and 4."""
    readout = Dense(np.tile([[1, 0], [-1, 1]], (2, 16)).astype(np.int32))
    network = good(reset="soft", kernel=[[[[3]]], [[[-1]]]], readout=readout)
    conv = replace(network.layers[0], neuron=IntegerNeuron(np.array([64, 64], np.int32), np.array([63, 0], np.int32)))
    network = replace(network, layers=(conv, network.layers[1]))
    images = np.full((3, 1, 4, 4), 255, np.uint8)
    soft, stock = (run_network(network, images, 4, neuron=neuron) for neuron in (None, NeuronModel.STOCK_LIF))
    assert (soft.potentials[0, -1, 0], stock.potentials[0, -1, 0]) == (3 * 8, 2 * 8)
    assert lava_dl(network, images, 4) == LavaDl(image_count=3, agreement=1.0)
    labels = soft.predictions[:, -1]
    found = check_network(network, images=images, labels=labels)
    assert_says(found[BY_LAVA_DL], "note", None, ["100.00 % of 3 images", "`ref` 100.00 %"])


@pytest.mark.parametrize(
    ("measured", "severity", "words"),
    [
        (LavaDl(image_count=200, agreement=0.99), "note", "agrees with `ref` on 99.00 % of 200 images"),
        (LavaDl(image_count=200, agreement=0.985), "warning", "agrees with `ref` on 98.50 % of 200 images"),
        (
            LavaDl(image_count=200, agreement=0.5, accuracy=0.9, ref_accuracy=0.905),
            "note",
            "classifies 90.00 % of 200 images correctly, `ref` 90.50 %",
        ),
        (
            LavaDl(image_count=200, agreement=0.99, accuracy=0.9, ref_accuracy=0.915),
            "warning",
            "classifies 90.00 % of 200 images correctly, `ref` 91.50 %",
        ),
    ],
)
def test_a_loss_of_more_than_a_point_is_a_warning(measured: LavaDl, severity: str, words: str) -> None:
    (finding,) = lava_dl_findings(good(reset="soft", bias=[40_000, 0]), measured, "lava")
    assert_says(finding, severity, None, [words, "`reset='hard'`"])
    assert ("wrap biases" in finding.limit) == (severity == "warning")
    assert list(lava_dl_findings(good(), measured, "lava")) == []


def test_weights_that_lava_dl_changes_are_not_measured() -> None:
    positive = good(reset="soft", readout=Dense(np.ones((4, 18), np.int32)))
    assert lava_dl(positive, np.zeros((1, 1, 4, 4), np.uint8), 4) is None


def invoke(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, ["check", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_the_size_of_images_may_come_from_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(20, 3))\n"
    Path("sized_nets.py").write_text(code)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).state_dict(), "user.pt")
    np.savez("own.npz", images=np.random.default_rng(0).integers(0, 256, (9, 4, 5)).astype(np.uint8))
    words = ["check", "user.pt", "--arch", "sized_nets:make"]
    assert CliRunner().invoke(cli.app, [*words, "--data", "own.npz"]).exit_code == 0
    missing = CliRunner().invoke(cli.app, words)
    assert isinstance(missing.exception, UsageError)
    assert missing.exception.where == "input_shape"


def test_a_file_is_checked_for_its_own_target(tmp_path: Path) -> None:
    netx.write(circuit(), tmp_path / "chip.net")
    netx.write(good(), tmp_path / "lava.net")
    for name, target in (("chip.net", "loihi2"), ("lava.net", "lava")):
        _, out, _ = invoke(tmp_path / name, "--images", 0, "--json")
        assert json.loads(out)["target"] == target
        assert checking.check(load_file(tmp_path / name)).target == target


def test_own_images_are_not_called_validation_images(tmp_path: Path) -> None:
    netx.write(good(), tmp_path / "model.net")
    np.savez(tmp_path / "own.npz", images=np.zeros((3, 4, 4), np.uint8), labels=np.array([0, 1, 2]))
    done = CliRunner().invoke(
        cli.app, ["check", str(tmp_path / "model.net"), "--data", str(tmp_path / "own.npz"), "--images", "4"]
    )
    assert isinstance(done.exception, UsageError)
    assert done.exception.where == "image_count"
    assert "1..3" in done.exception.expected


def test_exit_codes_and_json(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(good(threshold=(64, 241)), path)
    code, out, _ = invoke(path, "--images", 0)
    assert code == 0
    assert "model.net: can be used on Lava on a CPU: 0 errors, 1 warning, 1 note" in out
    done = CliRunner().invoke(cli.app, ["check", str(path)])
    assert done.exit_code == 0
    # The verdict comes first.
    assert done.output.startswith("model.net: can be used on Lava on a CPU: ")
    assert "silent and saturated channels are not checked: " in done.stderr
    made = replace(good(), provenance=good().provenance.with_parts(model={"data": "photos"}))
    netx.write(made, tmp_path / "own.net")
    code, _, err = invoke(tmp_path / "own.net")
    assert code == 0
    assert "own.net: was exported with photos, which is neither in the current folder nor beside" in " ".join(
        err.split()
    )
    assert "found 'photos'" not in err
    (tmp_path / "photos").mkdir()
    np.savez(tmp_path / "photos" / "all.npz", images=np.zeros((9, 4, 4), np.uint8))
    made = replace(good(), provenance=good().provenance.with_parts(model={"data": "all.npz"}))
    netx.write(made, tmp_path / "photos" / "own.net")
    _, out, _ = invoke(tmp_path / "photos" / "own.net", "--json")
    assert json.loads(out)["image_count"] == 9
    code, out, _ = invoke(path, "--images", 0, "--target", "loihi2", "--json")
    assert code == 3
    found = json.loads(out)
    assert set(found) == {
        *("file", "target", "timesteps", "image_count", "lava_dl", "is_usable", "findings", "layers", "neurocores")
    }
    assert found["lava_dl"] is None
    assert (found["target"], found["timesteps"], found["image_count"], found["is_usable"]) == ("loihi2", 4, 0, False)
    assert [finding["severity"] for finding in found["findings"]] == ["error", "warning", "note"]
    assert set(found["findings"][0]) == {"severity", "rule", "layer", "found", "limit", "source", "fix"}
    assert found["findings"][0]["rule"] == "one threshold per population"
    assert [layer["name"] for layer in found["layers"]] == ["conv", "fc"]
    assert found["neurocores"]["available"] == 128
    _, out, _ = invoke(path, "--images", 0, "--target", "loihi2")
    assert out.startswith("model.net: cannot be used on Loihi 2: 1 error, 1 warning, 1 note\n")
    assert [line[:10].strip() for line in out.splitlines() if line[:1].strip()][1:] == [
        "error",
        "warning",
        "note",
        "neurocores",
        "most",
    ]
    assert "most        conv: 2 cores of 2 x 3 x 2, limited by tile width\n" in out
    # With all sources, a finding is one line, and is not repeated.
    _, out, _ = invoke(path, "--images", 0, "--target", "loihi2", "--details")
    assert sum(line.startswith(("error: ", "warning: ", "note: ")) for line in out.splitlines()) == 3
    assert sum(line.startswith(("error ", "warning ", "note ")) for line in out.splitlines()) == 0
    # Parameters are shown as the flags of `export`.
    assert "Export with --thresholds scalar, or with --target loihi2 and --reset soft." in " ".join(out.split())


def test_findings_that_share_a_remedy_name_it_once(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(good(reset="soft", threshold=(64, 65)), path)
    code, out, _ = invoke(path, "--images", 0, "--target", "loihi2")
    assert code == 3
    command = "loihi-convert export MODEL --target loihi2 -T 4"
    assert out.splitlines()[1] == f"It was exported for Lava. Fix: {command} with its other options"
    assert out.count("--target loihi2") == 1
    assert "lava/proc/lif/models.py" not in out
    _, out, _ = invoke(path, "--images", 0, "--target", "loihi2", "--details")
    assert "lava/proc/lif/models.py" in out
    _, out, _ = invoke(path, "--images", 0)
    assert "exported for Lava" not in out


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["absent.net"], InputError, "absent.net: no such file"),
        (["."], InputError, "is a folder"),
        (["pipe"], InputError, "pipe: is a pipe or a device; must be a file"),
        (["model.net", "--target", "loihi"], UsageError, "--target: found 'loihi'; must be one of lava, loihi2"),
        (["model.net", "-T", 0, "--images", 0], UsageError, "timesteps: found 0"),
        (["model.net", "--chips", 0, "--images", 0], UsageError, "chips: found 0"),
        (["model.net", "--images", 5], UsageError, "model.net: does not record its data set"),
        (["model.net", "--data", "digits"], InputError, "data: found digits, images of"),
        (["model.net", "--arch", "candidates:cnn"], UsageError, "`arch`, `input_shape`, `mean` and `std` given"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    netx.write(good(), Path("model.net"))
    os.mkfifo("pipe")
    with pytest.raises(error, match=message):
        CliRunner().invoke(cli.app, ["check", *map(str, words)], catch_exceptions=False)
