"""Shapes, fan-out, pooling as a strided convolution, and every exactness rule."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import random_network
from support.strategies import Case, networks
from torch.nn import functional

from loihi_convert.chip import rules
from loihi_convert.errors import InputError, RangeError
from loihi_convert.ir.network import ReluLayer
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork, with_pixel_bits
from loihi_convert.ir.synapse import Conv, Dense

SEEDS = st.integers(0, 10_000)


def current(synapse: Conv | Dense, inputs: np.ndarray) -> torch.Tensor:
    """The synapse by PyTorch in float64, pooling as a sum."""
    signal = torch.from_numpy(inputs.astype(np.float64))[None]
    weight = torch.from_numpy(synapse.weight.astype(np.float64))
    if synapse.pool != (1, 1):
        signal = functional.avg_pool2d(signal, synapse.pool, divisor_override=1)
    if isinstance(synapse, Dense):
        return functional.linear(signal.flatten(1), weight)[0]
    return functional.conv2d(signal, weight, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)[0]


@given(networks(), SEEDS)
@settings(max_examples=20, deadline=None)
def test_output_shape_fans_and_strided_form_agree_with_torch(case: Case, seed: int) -> None:
    network, _ = case
    shape = network.input_shape
    rng = np.random.default_rng(seed)
    for layer, expected in zip(network.layers, network.shapes, strict=True):
        inputs = rng.integers(0, 2, shape)
        by_torch = current(layer.synapse, inputs)
        assert tuple(by_torch.shape) == expected
        strided = layer.synapse.without_pooling(shape)
        assert strided.pool == (1, 1)
        assert strided.output_shape(shape) == expected
        assert torch.equal(current(strided, inputs), by_torch)
        # A synapse of nonzero weight adds 1 to the output if all weights and inputs are 1; the gradient counts those
        # from each input.
        probe = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
        ones = replace(strided, weight=(strided.weight != 0).astype(np.float64), bias=None)
        weight = torch.from_numpy(ones.weight.copy())
        total = (
            functional.linear(probe.flatten(1), weight)
            if isinstance(ones, Dense)
            else functional.conv2d(probe, weight, None, ones.stride, ones.padding, ones.dilation, ones.groups)
        )
        total.sum().backward()
        assert np.array_equal(layer.synapse.fan_out(shape), probe.grad[0].numpy())
        assert np.array_equal(layer.synapse.fan_in(shape), total[0].detach().numpy())
        shape = expected


@pytest.mark.parametrize(
    ("height", "padding", "stride", "dilation", "is_exact"),
    [(9, 0, 1, 1, True), (8, 1, 1, 1, True), (9, 1, 1, 1, False), (9, 1, 2, 1, True), (11, 2, 2, 2, True)],
)
def test_padding_after_a_pooling_with_a_remainder_is_refused_where_it_is_read(
    height: int, padding: int, stride: int, dilation: int, is_exact: bool
) -> None:
    """`without_pooling` would read the ninth row, which pooling leaves out, in place of zeros. With stride 2, the last
    window ends at the fourth pair of rows; of five pairs, a dilated one reads none, the first, the third and the fifth,
    and then zeros beyond the map."""
    synapse = Conv(*(np.ones((1, 1, 3, 3), np.int32), None, (stride, 1), (padding, 0), (dilation, 1)), pool=(2, 2))
    inputs = np.arange(height * 8).reshape(1, height, 8)
    strided = synapse.without_pooling(inputs.shape)
    assert torch.equal(current(strided, inputs), current(synapse, inputs)) == is_exact
    with contextlib.nullcontext() if is_exact else pytest.raises(InputError, match="divisible by the pooling"):
        synapse.output_shape(inputs.shape)


@given(networks(), SEEDS)
@settings(max_examples=15, deadline=None)
def test_input_factors_scale_the_channels(case: Case, seed: int) -> None:
    network, _ = case
    shape = network.input_shape
    rng = np.random.default_rng(seed)
    for layer, after in zip(network.layers, network.shapes, strict=True):
        factors = rng.uniform(0.1, 3, shape[0])
        inputs = rng.integers(0, 2, shape)
        scaled = inputs * factors.reshape(-1, *(1,) * (len(shape) - 1))
        by_weight = current(layer.synapse.with_input_factors(factors), inputs)
        torch.testing.assert_close(by_weight, current(layer.synapse, scaled), rtol=1e-12, atol=1e-9)
        shape = after


def test_arrays_are_read_only_copies() -> None:
    weight = np.ones((2, 3), np.int32)
    synapse = Dense(weight)
    weight[:] = 7
    assert synapse.weight.sum() == 6
    with pytest.raises(ValueError, match="read-only"):
        synapse.weight[0, 0] = 2
    # An array that cannot change is not copied.
    assert replace(synapse, bias=np.zeros(2)).weight is synapse.weight
    view = weight[:]
    view.flags.writeable = False
    assert not np.shares_memory(Dense(view).weight, weight)


@pytest.mark.parametrize(
    ("taps", "found"),
    [
        ({(1, 0): 2.0, (2, 1): 3.0}, ""),
        # A relay without a weight.
        ({(2, 1): 1.0}, ""),
        ({(1, 0): 1.0, (1, 1): 1.0}, "more than one weight"),
        ({(1, 0): -1.0}, "negative"),
        ({(1, 1): 1.0}, "channel 1 repeats 1"),
    ],
)
def test_a_relay_has_one_positive_weight_at_its_source(taps: dict[tuple[int, int], float], found: str) -> None:
    """Channels 1 and 2 repeat channels 0 and 1; channel 0 is not a relay."""
    weight = np.zeros((3, 2, 3, 3))
    weight[0] = -1
    for (output, source), value in taps.items():
        weight[output, source, 1, 2] = value
    with pytest.raises(RangeError, match=found) if found else contextlib.nullcontext():
        ReluLayer("conv", Conv(weight, padding=(1, 1)), relay_of=np.array([-1, 0, 1]))


@pytest.mark.parametrize(
    ("relay_of", "bias", "pool", "found"),
    [
        ([-1, 0, 1], [5.0, 0.0, 0.0], (1, 1), ""),
        ([-1, 0, 1], [0.0, 0.0, 0.1], (1, 1), "a relay has a bias"),
        ([-1, 0, 1], [0.0, 0.0, 0.0], (1, 2), r"has relays after a pooling of \(1, 2\)"),
        ([-1, -1, -1], [0.0, 0.0, 0.1], (1, 2), ""),
        ([-1, 0], [0.0, 0.0, 0.0], (1, 1), r"found int64 \(2,\)"),
        ([-1.0, 0.0, 1.0], [0.0, 0.0, 0.0], (1, 1), r"found float64 \(3,\)"),
    ],
)
def test_a_relay_has_no_bias_and_no_pooling(
    relay_of: list[int], bias: list[float], pool: tuple[int, int], found: str
) -> None:
    synapse = Dense(np.array([[2.0, 3.0], [1.0, 0.0], [0.0, 1.0]]), np.array(bias), pool)
    with pytest.raises(RangeError, match=found) if found else contextlib.nullcontext():
        ReluLayer("fc", synapse, relay_of=np.array(relay_of))


@pytest.mark.parametrize(("relay_of", "found"), [([-1, 0, -1, 1], ""), ([-1, 0, -1, 0], "channel 3 repeats 1")])
def test_a_relay_in_a_group_repeats_a_channel_of_that_group(relay_of: list[int], found: str) -> None:
    """Channels 2 and 3 are the second group, which has input 1."""
    synapse = Conv(np.ones((4, 1, 1, 1)), groups=2)
    with pytest.raises(RangeError, match=found) if found else contextlib.nullcontext():
        ReluLayer("conv", synapse, relay_of=np.array(relay_of))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"input of a convolution: found \(3, 8, 8\); must have 2 channels"):
        Conv(np.ones((1, 2, 3, 3))).output_shape((3, 8, 8))
    with pytest.raises(InputError, match=r"found \(1, 4, 4\); must be at least as large as the kernel \(5, 5\)"):
        Conv(np.ones((1, 1, 5, 5))).output_shape((1, 4, 4))
    with pytest.raises(InputError, match=r"dense layer: found 16 values, from shape \(1, 8, 8\); must be 9"):
        Dense(np.ones((1, 9)), pool=(2, 2)).output_shape((1, 8, 8))


def network_of(weight: int = 1, bias: int = 0, threshold: int = 10, initial: int = 0) -> QuantizedNetwork:
    hidden = Dense(np.full((2, 4), weight, np.int32), np.full(2, bias, np.int32))
    neuron = IntegerNeuron(np.full(2, threshold, np.int64), np.full(2, initial, np.int64))
    output = Dense(np.ones((2, 2), np.int32))
    layers = (
        QuantizedLayer("fc1", hidden, neuron, np.ones(2), 255),
        QuantizedLayer("fc2", output, None, np.ones(2)),
    )
    return QuantizedNetwork((1, 2, 2), layers, timesteps=4, max_timesteps=8, pixel_bits=8, reset="soft")


@pytest.mark.parametrize(("bias", "fits"), [(None, True), (130_432, True), (130_433, False)])
def test_a_current_of_24_bits_includes_the_bias(bias: int | None, fits: bool) -> None:
    """127 x 255 x 255 + 130,432 = 2^23 - 1."""
    weight = np.full((1, 255), 127, np.int32)
    hidden = Dense(weight, None if bias is None else np.array([-bias], np.int32))
    layers = (
        QuantizedLayer("fc1", hidden, IntegerNeuron(np.array([9]), np.array([0])), np.ones(1), 255),
        QuantizedLayer("fc2", Dense(np.ones((1, 1), np.int32)), None, np.ones(1)),
    )
    with contextlib.nullcontext() if fits else pytest.raises(RangeError, match="a current that can reach 8388608"):
        QuantizedNetwork((1, 15, 17), layers, timesteps=1, max_timesteps=1, pixel_bits=8, reset="soft")


def test_the_lowest_number_of_a_dtype_is_no_small_one() -> None:
    """abs(-128) is -128 in int8."""
    layer = QuantizedLayer("fc", Dense(np.array([[-128, 1]], np.int8)), None, np.ones(1), 255)
    with pytest.raises(RangeError, match="a weight of magnitude 128"):
        QuantizedNetwork((2, 1, 1), (layer,), timesteps=1, max_timesteps=1, pixel_bits=8, reset="soft")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            {"weight": 128},
            "fc1: breaks the rule 'weights fit eight bits': a weight of magnitude 128; must be",
        ),
        (
            {"bias": 131072},
            "fc1: breaks the rule 'biases fit the potential': a bias of magnitude 131072; must be at most 131071",
        ),
        ({"threshold": 131073}, r"fc1: .*thresholds fit seventeen bits.* 131073\.\.131073; must be in 1\.\.131072"),
        ({"threshold": 0}, r"fc1: .*thresholds fit seventeen bits.* thresholds 0\.\.0"),
        (
            {"initial": 10},
            r"fc1: .*initial potentials lie below threshold.* 2 initial potentials outside 0\.\.threshold - 1",
        ),
        ({"initial": -1}, r"fc1: .*initial potentials lie below threshold"),
    ],
)
def test_a_network_that_breaks_a_rule_cannot_be_built(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        network_of(**numbers)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"initial": 5}, "fc1: breaks the rule 'neurons start at zero': 2 initial potentials other than 0"),
        (
            {"bias": -32768},
            "fc1: breaks the rule 'biases fit sixteen bits': a bias of magnitude 32768; must be at most 32767",
        ),
        # 4 inputs x 127 x 255 = 129540 fits, with a fifth input it would not.
        ({"weight": 127}, None),
    ],
)
def test_rules_of_lavas_own_lif(numbers: dict[str, int], message: str | None) -> None:
    network = network_of(**numbers)
    if message is None:
        assert replace(network, reset="hard").layers[0].largest_synaptic_current == 129540
    else:
        with pytest.raises(RangeError, match=message):
            replace(network, reset="hard")


def test_currents_that_wrap_in_lavas_lif_are_refused() -> None:
    wide = QuantizedLayer("fc", Dense(np.full((2, 5), 127, np.int32)), None, np.ones(2), 255)
    with pytest.raises(RangeError, match=r"fc: .*synaptic currents do not wrap.* reach 161925; must be at most 131071"):
        QuantizedNetwork((1, 1, 5), (wide,), timesteps=1, max_timesteps=1, pixel_bits=8, reset="hard")


def test_limits_themselves_are_allowed() -> None:
    network = network_of(weight=127, bias=-131071, threshold=131072, initial=131071)
    assert network.layers[0].largest_current == 4 * 127 * 255 + 131071


def test_currents_beyond_24_bits_are_refused() -> None:
    # 127 x 255 x 260 = 8,420,100 is the first multiple of 127 x 255 x 10 above 2^23 - 1.
    wide = QuantizedLayer("fc", Dense(np.full((2, 260), 127, np.int32)), None, np.ones(2), 255)
    with pytest.raises(RangeError, match=r"fc: .*currents fit twenty four bits.* 8420100; must be at most 8388607"):
        QuantizedNetwork((1, 1, 260), (wide,), timesteps=1, max_timesteps=1, pixel_bits=8, reset="soft")


def test_floats_are_refused() -> None:
    layer = QuantizedLayer("fc", Dense(np.ones((2, 4))), None, np.ones(2), 255)
    with pytest.raises(RangeError, match="fc: breaks the rule 'numbers are integers': values of type float64"):
        QuantizedNetwork((1, 2, 2), (layer,), timesteps=1, max_timesteps=1, pixel_bits=8, reset="soft")


def test_only_the_last_layer_integrates_without_neurons() -> None:
    first, last = network_of().layers
    keep = {"timesteps": 1, "max_timesteps": 1, "pixel_bits": 8, "reset": "soft"}
    with pytest.raises(RangeError, match="fc1: has no neurons"):
        QuantizedNetwork((1, 2, 2), (replace(first, neuron=None), last), **keep)
    assert QuantizedNetwork((1, 2, 2), (first,), **keep).readout == "spikes"
    assert QuantizedNetwork((1, 2, 2), (first, last), **keep).readout == "potential"
    conv = QuantizedLayer("conv", Conv(np.ones((2, 1, 2, 2), np.int32)), None, np.ones(2), 255)
    with pytest.raises(RangeError, match="conv: is a convolution; must be dense"):
        QuantizedNetwork((1, 2, 2), (conv,), **keep)


def test_timesteps_and_pixel_bits_are_checked() -> None:
    with pytest.raises(RangeError, match="timesteps: found 9 with max_timesteps 8"):
        replace(network_of(), timesteps=9)
    with pytest.raises(RangeError, match=r"pixel_bits: found 9; must be in 1\.\.8"):
        replace(network_of(), pixel_bits=9)
    with pytest.raises(RangeError, match="pixel_bits: found 4 for Poisson input; must be 8"):
        replace(network_of(), pixel_bits=4, poisson_seed=0)


def test_the_largest_input_is_that_of_the_pixels_or_of_spikes() -> None:
    """The exactness rules bound a current by it: with a smaller one, a sum could be wrong."""
    first, last = network_of().layers
    for layers in ((replace(first, largest_input=1), last), (first, replace(last, largest_input=255))):
        with pytest.raises(RangeError, match="largest_input"):
            replace(network_of(), layers=layers)


def test_a_network_without_layers() -> None:
    with pytest.raises(RangeError, match="found no layers"):
        replace(network_of(), layers=())


@pytest.mark.parametrize(
    "changed", [{"groups": 2}, {"groups": 0}, {"stride": (0, 1)}, {"dilation": (1, 0)}, {"padding": (0, -1)}]
)
def test_a_geometry_that_cannot_be(changed: dict[str, Any]) -> None:
    synapse = Conv(np.ones((3, 1, 1, 1), np.int32))
    assert synapse.output_shape((1, 4, 4)) == (3, 4, 4)
    impossible = replace(synapse, **changed)
    with pytest.raises(InputError, match="a convolution: found"):
        impossible.output_shape((impossible.groups, 4, 4))


@pytest.mark.parametrize("name", ["", "x" * 401, "two\nlines", "\x1b[2J"])
def test_names_that_cannot_be_printed(name: str) -> None:
    first, last = network_of().layers
    with pytest.raises(RangeError, match=r"^name of a layer: found '.*'; must be 1\.\.400 printable characters\.$"):
        replace(network_of(), layers=(replace(first, name=name), last))


def test_two_layers_of_one_name() -> None:
    first, last = network_of().layers
    with pytest.raises(RangeError, match=f"^{first.name}: found in two layers"):
        replace(network_of(), layers=(first, replace(last, name=first.name)))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"neuron": None}, "has no neurons"),
        ({"neuron": None, "low_bits": 4}, "has 4 low bits"),
        ({"offset": np.ones(2)}, "has an offset"),
    ],
)
def test_only_the_last_layer_lacks_neurons_or_has_digits_or_an_offset(change: dict[str, Any], found: str) -> None:
    first, last = network_of().layers
    with pytest.raises(RangeError) as caught:
        replace(network_of(), layers=(replace(first, **change), last))
    assert (caught.value.where, caught.value.found) == (first.name, found)


@pytest.mark.parametrize("bits", range(1, 9))
def test_pixels_are_rounded_to_p_bits(bits: int) -> None:
    values = np.arange(256, dtype=np.uint8)
    levels = 2**bits - 1
    # Halves cannot occur: value x levels / 255 = n + 1/2 would need 255 to be even.
    assert np.array_equal(with_pixel_bits(values, bits), np.rint(values / 255 * levels))


def test_every_rule_is_in_the_list() -> None:
    lists = (rules.EXACTNESS_RULES, rules.LIF_RULES, rules.CHIP_RULES, rules.SCALAR_RULES)
    # A rule says what it has found.
    found = {
        name
        for name, value in vars(rules).items()
        if getattr(value, "__module__", "") == rules.__name__
        and getattr(value, "__annotations__", {}).get("return") == "str | None"
        and not name.startswith("_")
    }
    assert found == {rule.__name__ for rules in lists for rule in rules}


MAP_OF_FOUR = Conv(np.ones((4, 1, 3, 3), np.int64), bias=np.ones((4, 6, 6), np.int64))


@pytest.mark.parametrize("shape", [(3,), (1,), (0,), (4, 6, 5), (4, 4, 9), (6, 6)])
def test_a_bias_has_a_value_for_each_channel_or_each_output(shape: tuple[int, ...]) -> None:
    assert MAP_OF_FOUR.output_shape((1, 8, 8)) == (4, 6, 6)
    for synapse, images in ((MAP_OF_FOUR, (1, 8, 8)), (Dense(np.ones((4, 64), np.int64)), (64,))):
        with pytest.raises(InputError) as caught:
            replace(synapse, bias=np.ones(shape, np.int64)).output_shape(images)
        assert (caught.value.where, caught.value.found) == ("bias", f"found shape {shape}")


def test_a_window_must_fit_the_map_even_with_padding() -> None:
    with pytest.raises(InputError):
        replace(MAP_OF_FOUR, bias=None, padding=(1, 1), pool=(4, 4)).output_shape((1, 3, 8))


@pytest.mark.parametrize("name", ["scale", "threshold", "initial_potential"])
def test_a_layer_has_a_number_for_each_channel(name: str) -> None:
    network, _ = random_network(0)
    layer = network.layers[0]
    if name == "scale":
        changed = replace(layer, scale=layer.scale[:-1])
    else:
        changed = replace(layer, neuron=replace(layer.neuron, **{name: getattr(layer.neuron, name)[:-1]}))
    with pytest.raises(RangeError, match="must be one valid number per channel"):
        replace(network, layers=(changed, *network.layers[1:]))
