"""External netx files -> `CubaNetwork`: the integers that lava-dl passes to Lava's processes.

Files are read like in ``lava/lib/dl/netx/hdf5.py``: types ``input``, ``conv``, ``flatten`` and ``dense``, neurons
``CUBA`` or ``LOIHI``. If lava-dl would raise an error, or silently build something else than the file says, the file is
refused with an error that names the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert import netx
from loihi_convert.arrays import Array, Shape
from loihi_convert.chip import limits
from loihi_convert.errors import NetxError
from loihi_convert.external.cuba import INTEGRATOR, CubaLayer, CubaNetwork, CubaNeuron, PixelBias
from loihi_convert.ir.quantized import MAX_TIMESTEPS
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.netx.hdf5 import MAX_LAYER_SIZE, errors_that_name, errors_within
from loihi_convert.netx.stock import StockFile, StockLayer

GRADED_PIXEL: Final = 2**limits.MAX_PIXEL_BITS - 1
"""Largest value of a pixel that enters as a graded spike, in networks without input neurons."""

_WEIGHT_BITS: Final = 8
_MAX_SUM: Final = 2**31 - 1
"""Largest weighted sum: Lava sums in int32, other code in int64; up to this magnitude both agree."""
_MAX_GEOMETRY: Final = 2**7 - 1
"""Lava stores strides, paddings, dilations and groups as int8 (``lava/proc/conv/models.py``)."""
_MAX_PIXEL_FACTOR: Final = 2**15
_UNIT: Final = 1 << limits.UNIT_EXP
_MAX_SHOWN: Final = 8

_UNSUPPORTED: Final[Mapping[str, str]] = {
    "dense_rec": "is recurrent",
    "dense_comp": "has complex weights",
    "pool": "is a pooling, which lava-dl cannot run either",
    "unpool": "is an unpooling, which lava-dl cannot run either",
    "convT": "is a transposed convolution, which lava-dl cannot run either",
    "average": "is an average, which lava-dl cannot run either",
    "concat": "is a concatenation, which lava-dl cannot run either",
}


def read_external(path: str | Path) -> CubaNetwork:
    """Return the network that lava-dl builds from the netx file at ``path``.

    Raises
    ------
    NetxError
        If the file is missing or damaged, or is not a chain of convolutions and dense layers of CUBA neurons without
        delays.
    """
    path = Path(path)
    file = netx.read_stock(path)
    with errors_that_name(path):
        return decode_external(file)


def decode_external(file: StockFile) -> CubaNetwork:
    """Return the network that lava-dl builds from ``file``.

    Raises
    ------
    NetxError
        As in `read_external`.
    """
    file.require_numbered()
    found: list[CubaLayer] = []
    input_shape: Shape | None = None
    is_flat = True
    for index, (_, layer) in enumerate(file.layers):
        with errors_within(name := f"layer {index}"):
            if layer.kind == "input":
                if index > 0:
                    raise NetxError("is a second input", expected="the input must be the first layer")
                input_shape = _shape(layer)
                if layer.has_neurons:
                    found.append(_input_layer(name, layer))
            elif layer.kind != "flatten":
                found.append(_layer(name, layer, is_flat=is_flat or not found, has_pixels=not found))
                input_shape = layer.input_shape if input_shape is None else input_shape
            is_flat = layer.kind == "flatten"
    if input_shape is None or not any(not isinstance(layer.synapse, PixelBias) for layer in found):
        raise NetxError("no conv or dense layer")
    return CubaNetwork(input_shape, tuple(found), _timesteps(file))


def _layer(name: str, layer: StockLayer, *, is_flat: bool, has_pixels: bool) -> CubaLayer:
    """A convolution or dense layer; ``is_flat``: a dense layer may follow, ``has_pixels``: its inputs are pixels."""
    if layer.kind not in ("conv", "dense"):
        reason = _UNSUPPORTED.get(layer.kind, "is a type that lava-dl does not support and skips silently")
        raise NetxError(f"'{layer.kind}' {reason}", expected="must be one of input, conv, flatten, dense")
    if "weight/imag" in layer.datasets:
        raise NetxError("has complex weights", expected="must be integers")
    _require_datasets(layer)
    if "delay" in layer.datasets:
        raise NetxError("has delays, which `ref` does not simulate", hint="Train or export without delays.")
    shape = _shape(layer)
    decoded = _conv(name, layer) if layer.kind == "conv" else _dense(name, layer)
    if layer.input_shape is None:
        raise NetxError("is a convolution of unknown input", expected="the first layer must be an input with a shape")
    if layer.kind == "dense" and len(layer.input_shape) == 3 and not is_flat:
        raise NetxError(f"takes maps of shape {layer.input_shape}", expected="must follow a layer 'flatten'")
    if layer.output_shape != layer.expected_shape:
        expected = f"must be {layer.output_shape}, from its weights and the input shape {layer.input_shape}"
        raise NetxError(f"stored shape {shape}", expected=expected)
    weight = np.abs(decoded.synapse.weight)
    largest = int(weight.reshape(len(weight), -1).sum(axis=1).max()) * (GRADED_PIXEL if has_pixels else 1)
    if largest > _MAX_SUM:
        expected = f"must be at most {_MAX_SUM:,}, or Lava's int32 wraps"
        raise NetxError(f"a weighted sum that can reach {largest:,}", expected=expected)
    return decoded


def dense_weights(weight: Array) -> tuple[Array, int]:
    """Return the weights of Lava's dense synapse, and the bits by which it shifts its sums right.

    The same as ``optimize_weight_bits`` of ``lava/lib/dl/netx/utils.py``, then ``clip_weights`` and
    ``truncate_weights`` of ``lava/utils/weightutils.py``. Weights are shifted left as far as 8 bits allow (including a
    sign, if both signs occur). Weights of both signs, in -256..254 and in steps of 2, are unchanged; others may change.

    Parameters
    ----------
    weight
        Integers ``(N_out, N_in)``.

    Returns
    -------
    tuple[Array, int]
        int32 of the same shape, and 0 or more: current = (weights @ spikes) >> bits.

    Raises
    ------
    NetxError
        If all weights are 0, for which lava-dl fails.
    """
    largest, least = int(weight.max()), int(weight.min())
    if largest == least == 0:
        raise NetxError("all weights are 0", expected="lava-dl fails on such a layer")
    low, high = limits.SYNAPSE_LIMITS
    if (largest > high and least < 0) or (least < low and largest > 0):
        weight = weight.clip(low, high)
        largest, least = int(weight.max()), int(weight.min())
    is_mixed = least < 0 <= largest
    if is_mixed:
        scale = min(127 / largest if largest else math.inf, -128 / least)
    else:
        scale = 255 / largest if least >= 0 else -256 / least
    shift = math.floor(math.log2(scale)) + is_mixed
    if shift < 0:
        # lava-dl shifts by a negative number, for which NumPy returns 0.
        return np.zeros(weight.shape, np.int32), 0
    zero_bits = next(bits for bits in range(_WEIGHT_BITS, -1, -1) if not (weight % 2**bits).any()) - is_mixed
    weight_bits = _WEIGHT_BITS - shift - zero_bits
    # Lava determines the sign mode: a layer without positive weights is inhibitory, with or without zeros.
    sign = -1 if largest <= 0 else 1
    signed = sign * (weight.astype(np.int64) << shift)
    signed = signed.clip(-(2**_WEIGHT_BITS) if least < 0 < largest else 0, 2**_WEIGHT_BITS - 1)
    cut = _WEIGHT_BITS - weight_bits + (least < 0 < largest)
    return (sign * (signed >> cut << cut)).astype(np.int32), shift


def _input_layer(name: str, layer: StockLayer) -> CubaLayer:
    largest = _MAX_PIXEL_FACTOR
    weight = _integer(layer, "weight", -largest, largest, cut=True) if "weight" in layer.datasets else _UNIT
    bias = _integer(layer, "bias", -largest, largest, cut=True) if "bias" in layer.datasets else 0
    return CubaLayer(name, PixelBias(weight, bias), _neuron(layer, _shape(layer)))


def _conv(name: str, layer: StockLayer) -> CubaLayer:
    for dataset, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
        _integers(layer, dataset, least, _MAX_GEOMETRY)
    _integer(layer, "groups", 1, _MAX_GEOMETRY)
    weight = _integers(layer, "weight", cut=True)
    synapse = layer.synapse
    assert isinstance(synapse, Conv)
    shape = _shape(layer)
    synapse = replace(synapse, weight=weight.reshape(synapse.weight.shape), bias=_bias(layer, shape))
    return CubaLayer(name, synapse, _neuron(layer, shape))


def _dense(name: str, layer: StockLayer) -> CubaLayer:
    weight, shape = _integers(layer, "weight", cut=True), (math.prod(_shape(layer)),)
    synapse = layer.synapse
    assert isinstance(synapse, Dense)
    if weight.ndim > 1 and weight.shape != synapse.weight.shape:
        raise NetxError(f"weights of shape {weight.shape} for {shape[0]} neurons", expected="must be (N_out, N_in)")
    mantissas, shift = dense_weights(weight.reshape(synapse.weight.shape))
    neuron = _neuron(layer, shape) if layer.has_neurons else INTEGRATOR
    return CubaLayer(name, Dense(mantissas, _bias(layer, shape)), neuron, shift)


def _neuron(layer: StockLayer, shape: Shape) -> CubaNeuron:
    if not layer.is_cuba:
        raise NetxError(f"neurons of type '{layer.neuron_type}'", expected="must be one of CUBA, LOIHI")
    _require_datasets(layer)
    if "neuron/messageBits" in layer.datasets:
        raise NetxError("has a dataset neuron/messageBits", expected="lava-dl fails on it")
    i_decay, v_decay = (_integer(layer, f"neuron/{name}", 0, limits.MAX_DECAY) for name in ("iDecay", "vDecay"))
    threshold = _integers(layer, "neuron/vThMant", 0, limits.THRESHOLD_LIMIT)
    return CubaNeuron(
        i_decay=i_decay,
        v_decay=v_decay,
        v_th_mant=_per_neuron(threshold, "neuron/vThMant", shape, allows_one=True).astype(np.int32),
    )


def _bias(layer: StockLayer, shape: Shape) -> Array | None:
    if "bias" not in layer.datasets:
        return None
    bias = _integers(layer, "bias", -limits.LIF_BIAS_LIMIT, limits.LIF_BIAS_LIMIT, cut=True)
    return _per_neuron(bias, "bias", shape, allows_one=math.prod(shape) == 1)


def _per_neuron(value: Array, name: str, shape: Shape, *, allows_one: bool) -> Array:
    """One number, one per channel or one per neuron (Lava's W, H, C), in a shape that broadcasts to C, H, W."""
    if allows_one and value.size == 1:
        return value.reshape(()) if name != "bias" else value.reshape(1)
    if value.shape == (shape[0],):
        return value.reshape(shape[0], 1, 1) if len(shape) == 3 and name != "bias" else value
    if len(shape) == 3 and value.shape == shape[::-1]:
        return value.transpose()
    one = "1, " if allows_one else ""
    expected = f"must be one of {one}({shape[0]},), {shape[::-1]} (W, H, C)"
    raise NetxError(f"{name} of shape {value.shape}", expected=expected)


def _shape(layer: StockLayer) -> Shape:
    """The stored shape, checked to be whole numbers and not too many neurons."""
    _require_datasets(layer)
    shape = tuple(_integers(layer, "shape", 1).reshape(-1).tolist())
    if len(shape) not in (1, 3) or math.prod(shape) > MAX_LAYER_SIZE:
        expected = f"must be (C, H, W) or (N,), up to {MAX_LAYER_SIZE:,} neurons"
        raise NetxError(f"shape {shape[:_MAX_SHOWN]}", expected=expected)
    return shape


def _require_datasets(layer: StockLayer) -> None:
    if layer.missing:
        raise NetxError(f"{', '.join(layer.missing)} missing", expected=f"lava-dl needs {', '.join(layer.needed)}")


def _integer(layer: StockLayer, name: str, least: int, largest: int, *, cut: bool = False) -> int:
    value = _integers(layer, name, least, largest, cut=cut)
    if value.size != 1:
        raise NetxError(f"{value.size} numbers in {name}", expected="must be one")
    return int(value.item())


def _integers(
    layer: StockLayer, name: str, least: int = -_MAX_SUM, largest: int = _MAX_SUM, *, cut: bool = False
) -> Array:
    """Integers of a dataset, int64; with ``cut``, rounded towards 0 as by lava-dl's ``astype(int)``."""
    value = layer.numbers(name)
    if value is None:
        stored = layer.datasets[name]
        raise NetxError(f"{name} is {stored.dtype} of shape {stored.shape}", expected="must be numbers")
    if not (np.abs(value.astype(np.float64)) <= _MAX_SUM).all():
        raise NetxError(f"{name} has numbers beyond +-{_MAX_SUM:,}, or NaN")
    whole = value.astype(np.int64)
    if not cut and (whole != value).any():
        raise NetxError(f"{name} has numbers with a fraction", expected="must be integers")
    low, high = int(whole.min()), int(whole.max())
    if low < least or high > largest:
        found = f"{low:,}" if low == high else f"{low:,}..{high:,}"
        raise NetxError(f"{name} {found}", expected=f"must be in {least:,}..{largest:,}")
    return whole


def _timesteps(file: StockFile) -> int | None:
    value = file.simulation.get("tSample")
    fits = value is not None and value.size == 1 and value.dtype.kind in "iu" and 1 <= value.item() <= MAX_TIMESTEPS
    return int(value.item()) if value is not None and fits else None
