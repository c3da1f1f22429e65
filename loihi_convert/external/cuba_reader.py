"""Netx files of other hands -> `CubaNetwork`: the integers that lava-dl gives to Lava's processes.

Read as ``lava/lib/dl/netx/hdf5.py`` reads them, whatever order the numbers have there: types ``input``, ``conv``,
``flatten`` and ``dense``, neurons ``CUBA`` or ``LOIHI``. Where lava-dl would go on in silence with something else than
the file says, or raises, the file is refused and the layer is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.chip import limits
from loihi_convert.errors import InputError, NetxError, escape_control
from loihi_convert.external.cuba import INTEGRATOR, CubaLayer, CubaNetwork, CubaNeuron, PixelBias
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.netx.hdf5 import MAX_LAYER_SIZE, Datasets, errors_that_name, read_content, read_stock_datasets

GRADED_PIXEL: Final = 2**limits.MAX_PIXEL_BITS - 1
"""Largest value of a graded spike that a pixel is, where a network begins without input neurons."""

_WEIGHT_BITS: Final = 8
_MAX_SUM: Final = 2**31 - 1
"""Lava sums in int32, and in int64 elsewhere; below this both are the same."""
_GEOMETRY_LIMIT: Final = 2**7 - 1
"""Lava keeps strides, paddings, dilations and groups as int8 (``lava/proc/conv/models.py``)."""
_MAX_TIMESTEPS: Final = 2**20

_REFUSED: Final[Mapping[str, str]] = {
    "dense_rec": "is recurrent",
    "dense_comp": "has complex weights",
    "pool": "pools, which lava-dl cannot run either",
    "unpool": "unpools, which lava-dl cannot run either",
    "convT": "is a transposed convolution, which lava-dl cannot run either",
    "average": "averages, which lava-dl cannot run either",
    "concat": "concatenates, which lava-dl cannot run either",
}


def read_external(path: Path) -> CubaNetwork:
    """Return the network in the netx file at ``path`` as lava-dl makes it of it.

    Raises
    ------
    NetxError
        If the file is missing or damaged, or is something else than a chain of convolutions and dense layers of CUBA
        neurons without delays.
    """
    return read_external_content(path, read_content(path))


def read_external_content(path: Path, content: bytes) -> CubaNetwork:
    """Return the network in the ``content`` of the netx file at ``path``, as `read_external` does."""
    with errors_that_name(path):
        return decode_external(read_stock_datasets(content))


def layers_of(datasets: Datasets) -> list[dict[str, Array]]:
    """The datasets of each layer, in order, by their names inside it.

    Raises
    ------
    NetxError
        If the layers are not called 0, 1, ...
    """
    layers: dict[str, dict[str, Array]] = {}
    for name, value in datasets.items():
        group, _, rest = name.partition("/")
        index, _, inside = rest.partition("/")
        if group == "layer":
            layers.setdefault(index, {})[inside] = value
    if set(layers) != {str(index) for index in range(len(layers))}:
        found = ", ".join(sorted(escape_control(name) for name in layers)[:8])
        raise NetxError(f"layer: holds {found}; netx numbers its layers 0, 1, 2, ...")
    return [layers[str(index)] for index in range(len(layers))]


def text_of(value: Array) -> str:
    """A text of a file, which may be an array of one: as it can be shown."""
    if value.size != 1 or value.dtype.kind != "S":
        raise NetxError(f"{value.dtype} {value.shape} where a text belongs")
    return escape_control(bytes(value.item()).decode("ascii", errors="replace"))


def decode_external(datasets: Datasets) -> CubaNetwork:
    """The network that ``datasets`` hold."""
    found: list[CubaLayer] = []
    input_shape: Shape | None = None
    shape: Shape = ()
    is_flattened = False
    for index, stock in enumerate(layers_of(datasets)):
        name = f"layer {index}"
        try:
            kind = text_of(stock["type"])
            if kind == "input":
                if index > 0:
                    raise NetxError("is a second input; allowed is one, the first layer")
                input_shape = shape = _shape(stock)
                if any(part.startswith("neuron/") for part in stock):
                    found.append(_input_layer(name, stock))
                continue
            if kind == "flatten":
                is_flattened = True
                continue
            if kind == "conv":
                layer = _conv(name, stock)
            elif kind == "dense":
                layer = _dense(name, stock)
                if input_shape is None:
                    input_shape = shape = (math.prod(np.shape(layer.synapse.weight)[1:]),)
                if len(shape) == 3 and found and not is_flattened:
                    raise NetxError(f"takes maps of shape {shape} without a layer 'flatten' before it")
            else:
                reason = _REFUSED.get(kind, "is of a type that lava-dl does not know and leaves out in silence")
                raise NetxError(f"'{kind}' {reason}; allowed are input, conv, flatten and dense")
            if input_shape is None:
                raise NetxError("is a convolution of unknown input; the first layer must be an input with a shape")
            is_flattened = False
            shape = _checked_shape(layer, shape, stock, largest_input=1 if found else GRADED_PIXEL)
            found.append(layer)
        except InputError as error:
            raise NetxError(f"{name}: {str(error).rstrip('.')}.") from error
        except KeyError as error:
            raise NetxError(f"{name}: {error.args[0]} is missing, and lava-dl needs it.") from error
    if input_shape is None or not any(not isinstance(layer.synapse, PixelBias) for layer in found):
        raise NetxError("holds no conv or dense layer.")
    return CubaNetwork(input_shape, tuple(found), _timesteps(datasets))


def dense_weights(weight: Array) -> tuple[Array, int]:
    """Return the weights of Lava's dense synapse, and the bits by which it shifts its sums down.

    What ``optimize_weight_bits`` of ``lava/lib/dl/netx/utils.py`` and then ``clip_weights`` and ``truncate_weights`` of
    ``lava/utils/weightutils.py`` do: weights are shifted up as far as 8 bits, and a sign where both signs occur, allow.
    Within -256..254 in steps of 2 that changes nothing; beyond, and without a positive weight, it may.

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
        If all weights are 0, with which lava-dl fails.
    """
    largest, least = int(weight.max()), int(weight.min())
    if largest == least == 0:
        raise NetxError("all its weights are 0, with which lava-dl fails")
    if (largest > 254 and least < 0) or (least < -256 and largest > 0):
        weight = weight.clip(-256, 254)
        largest, least = int(weight.max()), int(weight.min())
    is_mixed = least < 0 <= largest
    if is_mixed:
        scale = min(127 / largest if largest else math.inf, -128 / least)
    else:
        scale = 255 / largest if least >= 0 else -256 / least
    shift = math.floor(math.log2(scale)) + is_mixed
    if shift < 0:
        # A shift by less than nothing, which NumPy answers with 0.
        return np.zeros(weight.shape, np.int32), 0
    zero_bits = next(bits for bits in range(_WEIGHT_BITS, -1, -1) if not (weight % 2**bits).any()) - is_mixed
    weight_bits = _WEIGHT_BITS - shift - zero_bits
    # Lava finds the signs for itself; to it a layer without a positive weight is inhibitory, zeros or not.
    sign = -1 if largest <= 0 else 1
    signed = sign * (weight.astype(np.int64) << shift)
    signed = signed.clip(-(2**_WEIGHT_BITS) if least < 0 < largest else 0, 2**_WEIGHT_BITS - 1)
    cut = _WEIGHT_BITS - weight_bits + (least < 0 < largest)
    return (sign * (signed >> cut << cut)).astype(np.int32), shift


def _input_layer(name: str, stock: Datasets) -> CubaLayer:
    weight = _whole(stock["weight"], "weight", 2**15) if "weight" in stock else 64
    bias = _whole(stock["bias"], "bias", 2**15) if "bias" in stock else 0
    return CubaLayer(name, PixelBias(weight, bias), _neuron(stock, _shape(stock)))


def _conv(name: str, stock: Datasets) -> CubaLayer:
    weight = _truncated(stock["weight"], "weight")
    # slayer writes a fifth axis of 1, which is time.
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    if weight.ndim != 4:
        raise NetxError(f"weights of shape {weight.shape}; a convolution has (C_out, C_in / groups, K_h, K_w)")
    groups = _whole(stock["groups"], "groups", _GEOMETRY_LIMIT, least=1)
    if weight.shape[0] % groups:
        raise NetxError(f"{groups} groups of {weight.shape[0]} channels; allowed are divisors")
    shape = _shape(stock)
    synapse = Conv(
        weight=weight,
        bias=_bias(stock, shape),
        stride=_pair(stock, "stride", 1),
        padding=_pair(stock, "padding", 0),
        dilation=_pair(stock, "dilation", 1),
        groups=groups,
    )
    if not any(part.startswith("neuron/") for part in stock):
        raise NetxError("neuron is missing, and lava-dl needs it")
    return CubaLayer(name, synapse, _neuron(stock, shape))


def _dense(name: str, stock: Datasets) -> CubaLayer:
    if "weight/imag" in stock:
        raise NetxError("has complex weights; allowed are integers")
    count = math.prod(_shape(stock))
    weight = _truncated(stock["weight"], "weight")
    if weight.ndim == 1 and weight.size % count == 0:
        weight = weight.reshape(count, -1)
    if weight.ndim != 2 or len(weight) != count:
        raise NetxError(f"weights of shape {weight.shape} for {count} neurons; a dense layer has (N_out, N_in)")
    mantissas, shift = dense_weights(weight)
    neuron = INTEGRATOR
    if any(part.startswith("neuron/") for part in stock):
        neuron = _neuron(stock, (count,))
    return CubaLayer(name, Dense(mantissas, _bias(stock, (count,))), neuron, shift)


def _checked_shape(layer: CubaLayer, input_shape: Shape, stock: Datasets, largest_input: int) -> Shape:
    """The layer's output shape, if the file says the same and nothing in it can pass what Lava's integers hold."""
    shape = layer.synapse.output_shape(input_shape)
    stored = _shape(stock)
    if (stored if isinstance(layer.synapse, Conv) else (math.prod(stored),)) != shape:
        raise NetxError(f"shape {stored} is stored, but its weights give {shape} for an input of {input_shape}")
    if (neurons := math.prod(shape)) > MAX_LAYER_SIZE:
        raise NetxError(f"{neurons:,} neurons; allowed are {MAX_LAYER_SIZE:,}")
    assert not isinstance(layer.synapse, PixelBias)
    largest = int(np.abs(layer.synapse.weight).reshape(len(layer.synapse.weight), -1).sum(axis=1).max()) * largest_input
    if largest > _MAX_SUM:
        raise NetxError(
            f"a weighted sum that can reach {largest:,}; allowed are {_MAX_SUM:,}, beyond which Lava's int32 wraps"
        )
    if "delay" in stock:
        raise NetxError("has delays, which `ref` does not simulate; train or export it without")
    return shape


def _neuron(stock: Datasets, shape: Shape) -> CubaNeuron:
    kind = text_of(stock["neuron/type"])
    if kind not in ("CUBA", "LOIHI"):
        raise NetxError(f"neurons of type '{kind}'; allowed are CUBA and LOIHI")
    if "neuron/messageBits" in stock:
        raise NetxError("neuron/messageBits is there, with which lava-dl fails")
    threshold = _exact(stock["neuron/vThMant"], "neuron/vThMant")
    if threshold.size and not 0 <= threshold.min() <= threshold.max() <= limits.THRESHOLD_LIMIT:
        raise NetxError(
            f"vThMant {threshold.min()}..{threshold.max()}; allowed are 0..{limits.THRESHOLD_LIMIT}, Loihi's 17 bits"
        )
    return CubaNeuron(
        i_decay=_whole(stock["neuron/iDecay"], "neuron/iDecay", 4096, least=0),
        v_decay=_whole(stock["neuron/vDecay"], "neuron/vDecay", 4096, least=0),
        v_th_mant=_per_neuron(threshold, "neuron/vThMant", shape, allows_one=True).astype(np.int32),
    )


def _bias(stock: Datasets, shape: Shape) -> Array | None:
    if "bias" not in stock:
        return None
    bias = _truncated(stock["bias"], "bias")
    if (largest := int(np.abs(bias).max(initial=0))) > limits.LIF_BIAS_LIMIT:
        raise NetxError(
            f"a bias of magnitude {largest:,}; allowed is {limits.LIF_BIAS_LIMIT:,}, beyond which Lava wraps"
        )
    return _per_neuron(bias, "bias", shape, allows_one=math.prod(shape) == 1)


def _per_neuron(value: Array, name: str, shape: Shape, *, allows_one: bool) -> Array:
    """One number for all, one per channel or one per neuron, from Lava's W, H, C to a shape that broadcasts here."""
    if allows_one and value.size == 1:
        return value.reshape(()) if name != "bias" else value.reshape(1)
    if value.shape == (shape[0],):
        return value.reshape(shape[0], 1, 1) if len(shape) == 3 and name != "bias" else value
    if len(shape) == 3 and value.shape == shape[::-1]:
        return value.transpose()
    one = "1, " if allows_one else ""
    raise NetxError(f"{name} of shape {value.shape}; allowed are {one}({shape[0]},) and {shape[::-1]} (W, H, C)")


def _shape(stock: Datasets) -> Shape:
    value = _exact(stock["shape"], "shape")
    shape = tuple(value.reshape(-1).tolist())
    if len(shape) not in (1, 3) or min(shape) < 1 or math.prod(shape) > MAX_LAYER_SIZE:
        raise NetxError(f"shape {shape[:8]}; allowed are (C, H, W) and (N,), up to {MAX_LAYER_SIZE:,} neurons")
    return shape


def _pair(stock: Datasets, name: str, least: int) -> Pair:
    value = _exact(stock[name], name).reshape(-1)
    if value.size not in (1, 2) or value.min() < least or value.max() > _GEOMETRY_LIMIT:
        raise NetxError(f"{name} {value.tolist()[:8]}; allowed are one or two whole numbers {least}..{_GEOMETRY_LIMIT}")
    return int(value[0]), int(value[-1])


def _whole(value: Array, name: str, largest: int, *, least: int | None = None) -> int:
    exact = _truncated(value, name) if name in ("weight", "bias") else _exact(value, name)
    least = -largest if least is None else least
    if exact.size != 1 or not least <= exact.item() <= largest:
        raise NetxError(f"{name} {exact.reshape(-1).tolist()[:8]}; allowed is one whole number {least}..{largest}")
    return int(exact.item())


def _exact(value: Array, name: str) -> Array:
    whole = _truncated(value, name)
    if (whole != value).any():
        raise NetxError(f"{name}: numbers with a fraction where whole ones belong")
    return whole


def _truncated(value: Array, name: str) -> Array:
    """Integers cut towards 0, as lava-dl's ``astype(int)`` cuts them: int64."""
    if value.dtype.kind not in "iufb" or value.size == 0:
        raise NetxError(f"{name}: {value.dtype} {value.shape} where numbers belong")
    if not (np.abs(value.astype(np.float64)) <= _MAX_SUM).all():
        raise NetxError(f"{name}: numbers beyond {_MAX_SUM:,}, or none")
    return value.astype(np.int64)


def _timesteps(datasets: Datasets) -> int | None:
    if "simulation/tSample" not in datasets:
        return None
    value = datasets["simulation/tSample"]
    fits = value.size == 1 and value.dtype.kind in "iu" and 1 <= value.item() <= _MAX_TIMESTEPS
    return int(value.item()) if fits else None
