"""External netx files -> `CubaNetwork` or `GradedNetwork`: the integers that lava-dl passes to Lava's processes.

Files are read like in ``lava/lib/dl/netx/hdf5.py``: types ``input``, ``conv``, ``flatten`` and ``dense``. If lava-dl
would raise an error, or silently build something else than the file says, the file is refused with an error that names
the layer. The neurons must be ``CUBA`` or ``LOIHI``, or all ``SDNN``. As in ``get_neuron_params``, input neurons are
``Delta``, a layer with a dataset ``neuron/sigma_output`` (whatever its value) is ``Sigma``, all others are
``SigmaDelta`` with a ReLU, whatever the file names as its activation.

A CUBA neuron (current-based; netx also calls it LOIHI) is Lava's ``LIF``: its current and its potential both leak, and
its reset is hard. At each step, in units of 1/64 weight (``lava/proc/lif/models.py``)::

    u = wrap(u (4096 - iDecay) / 4096 + 64 I)            current; the quotient is rounded towards 0, 24 bits wrap
    v = clip(v (4096 - vDecay) / 4096 + u + 64 bias)     membrane potential; clips at +-(2^23 - 1)
    s = [v > 64 vThMant], then v = 0 where s             spike

Lava does not simulate the refractory delay stored in netx files, and neither does this package. These networks have no
scales, no balanced thresholds, and no known CNN. Axes C H W and shapes as in `ir.network`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Literal, NamedTuple

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import NetxError, low_to_high
from loihi_convert.ground.arrays import Array, Shape, freeze
from loihi_convert.ground.choices import MAX_TIMESTEPS, Readout
from loihi_convert.ir.graded import STOCK_SPIKE_EXP, GradedLayer, GradedNetwork
from loihi_convert.ir.network import Spiking
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.synapse import Conv, Dense, PixelBias
from loihi_convert.netx.hdf5 import MAX_LAYER_SIZE, errors_within
from loihi_convert.netx.stock import StockFile, StockLayer

MAX_SUM: Final = 2**31 - 1
"""Largest weighted sum: Lava sums in int32, other code in int64; up to this magnitude both agree."""

_WEIGHT_BITS: Final = 8
_MAX_PIXEL_FACTOR: Final = 2**15
_UNIT: Final = 1 << limits.UNIT_EXP
_MAX_SHOWN: Final = 8
_GEOMETRY: Final = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))


@dataclass(frozen=True, eq=False)
class CubaNeuron:
    """Neurons of one layer.

    Parameters
    ----------
    i_decay, v_decay
        netx's iDecay and vDecay, 0..4096: 0 never leaks, 4096 keeps nothing.
    v_th_mant
        netx's vThMant, int32, 0..2^17, of a shape that broadcasts to the layer's ``(C, H, W)`` or ``(N,)``.
    """

    i_decay: int
    v_decay: int
    v_th_mant: Array

    def __post_init__(self) -> None:
        freeze(self, "v_th_mant")


INTEGRATOR: Final = CubaNeuron(i_decay=0, v_decay=limits.MAX_DECAY, v_th_mant=np.array(limits.NEVER_FIRES, np.int32))
"""Neuron of a dense layer without a neuron group in lava-dl: u never leaks, v = u + bias, and it never fires."""


@dataclass(frozen=True, eq=False)
class CubaLayer:
    """One layer of CUBA neurons.

    Parameters
    ----------
    name
        Its place in the file, such as ``layer 3``.
    synapse
        Integer weights and biases. The weights of a dense layer are those of Lava's synapse: 8 bits and a sign mode,
        shifted left as far as possible (`dense_weights`).
    neuron
        Its neurons.
    weight_shift
        Bits by which the weighted sum is shifted right again.
    """

    relay_of: ClassVar[None] = None
    """Other tools have no relays."""

    name: str
    synapse: Conv | Dense | PixelBias
    neuron: CubaNeuron
    weight_shift: int = 0


@dataclass(frozen=True, eq=False)
class CubaNetwork(Spiking[CubaLayer]):
    """A chain of layers of CUBA neurons.

    Parameters
    ----------
    input_shape
        ``(C, H, W)`` or ``(N,)``.
    layers
        In order.
    timesteps
        Time steps per sample (``simulation/tSample``); None if not in the file.
    provenance
        Empty: other tools record none.
    """

    input_shape: Shape
    layers: tuple[CubaLayer, ...]
    timesteps: int | None = None
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def readout(self) -> Readout:
        """The output: the spikes of the last layer, or its potential if it only integrates."""
        fires = int(self.layers[-1].neuron.v_th_mant.min()) < limits.POTENTIAL_LIMIT
        return "spikes" if fires else "potential"

    @property
    def task(self) -> Literal["classification"]:
        """Meaning of the outputs: always classes, as the file does not record units for numbers."""
        return "classification"


class Link(NamedTuple):
    """One layer of the chain, as in `CubaLayer`, with its shape, ``(C, H, W)`` or ``(N,)``, and as it is stored."""

    name: str
    synapse: Conv | Dense | PixelBias
    shape: Shape
    stock: StockLayer
    weight_shift: int = 0


def _chain(file: StockFile, bias_limit: int) -> tuple[Shape, list[Link]]:
    """The input shape of the chain in ``file``, and each layer with a synapse or input neurons; ``bias_limit`` is the
    largest magnitude of a bias.

    Raises
    ------
    NetxError
        If the file is not a chain of convolutions and dense layers without delays.
    """
    file.require_numbered()
    found: list[Link] = []
    input_shape: Shape | None = None
    has_synapse, is_flat = False, True
    for index, (_, layer) in enumerate(file.layers):
        with errors_within(name := f"layer {index}"):
            if layer.kind == "input":
                if index > 0:
                    raise NetxError("is a second input", expected="the input must be the first layer")
                input_shape = shape_of(layer)
                if layer.has_neurons:
                    found.append(_input_link(name, layer))
            elif layer.kind != "flatten":
                found.append(_link(name, layer, bias_limit, is_flat=is_flat or not found))
                has_synapse = True
                input_shape = layer.input_shape if input_shape is None else input_shape
            is_flat = layer.kind == "flatten"
    if input_shape is None or not has_synapse:
        raise NetxError("no conv or dense layer")
    return input_shape, found


def _link(name: str, layer: StockLayer, bias_limit: int, *, is_flat: bool) -> Link:
    """A convolution or dense layer; ``is_flat``: a dense layer may follow."""
    if layer.kind not in ("conv", "dense"):
        raise NetxError(f"is of type '{layer.kind}'", expected="must be one of input, conv, flatten, dense")
    if "weight/imag" in layer.datasets:
        raise NetxError("has complex weights", expected="must be integers")
    _require_datasets(layer)
    if "delay" in layer.datasets:
        raise NetxError("has delays, which `ref` does not simulate")
    stored = shape_of(layer)
    shape, shift = (math.prod(stored),) if layer.kind == "dense" else stored, 0
    for dataset, least in _GEOMETRY if layer.kind == "conv" else ():
        integers(layer, dataset, least, limits.MAX_CONV_GEOMETRY)
    weight, synapse = integers(layer, "weight", cut=True), layer.synapse
    assert synapse is not None
    if layer.kind == "dense":
        if weight.ndim > 1 and weight.shape != synapse.weight.shape:
            raise NetxError(f"weights of shape {weight.shape} for {shape[0]} neurons", expected="must be (N_out, N_in)")
        weight, shift = dense_weights(weight.reshape(synapse.weight.shape))
    bias = None
    if "bias" in layer.datasets:
        bias = integers(layer, "bias", -bias_limit, bias_limit, cut=True)
        bias = per_neuron(bias, "bias", shape, allows_one=math.prod(shape) == 1)
    if layer.input_shape is None:
        raise NetxError("is a convolution of unknown input", expected="the first layer must be an input with a shape")
    if layer.kind == "dense" and len(layer.input_shape) == 3 and not is_flat:
        raise NetxError(f"takes maps of shape {layer.input_shape}", expected="must follow a layer 'flatten'")
    if layer.output_shape != layer.expected_shape:
        expected = f"must be {layer.output_shape}, from its weights and the input shape {layer.input_shape}"
        raise NetxError(f"stored shape {stored}", expected=expected)
    synapse = replace(synapse, weight=weight.reshape(synapse.weight.shape), bias=bias)
    return Link(name, synapse, shape, layer, shift)


def _input_link(name: str, layer: StockLayer) -> Link:
    largest = _MAX_PIXEL_FACTOR
    weight = integer(layer, "weight", -largest, largest, cut=True) if "weight" in layer.datasets else _UNIT
    bias = integer(layer, "bias", -largest, largest, cut=True) if "bias" in layer.datasets else 0
    return Link(name, PixelBias(weight, bias), shape_of(layer), layer)


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


def per_neuron(value: Array, name: str, shape: Shape, *, allows_one: bool) -> Array:
    """Return one number, one per channel or one per neuron (Lava's W, H, C), in a shape that broadcasts to C, H, W."""
    if allows_one and value.size == 1:
        return value.reshape(()) if name != "bias" else value.reshape(1)
    if value.shape == (shape[0],):
        return value.reshape(shape[0], 1, 1) if len(shape) == 3 and name != "bias" else value
    if len(shape) == 3 and value.shape == shape[::-1]:
        return value.transpose()
    one = "1, " if allows_one else ""
    expected = f"must be one of {one}({shape[0]},), {shape[::-1]} (W, H, C)"
    raise NetxError(f"{name} of shape {value.shape}", expected=expected)


def shape_of(layer: StockLayer) -> Shape:
    """Return the stored shape, checked to be whole numbers and not too many neurons."""
    _require_datasets(layer)
    shape = tuple(integers(layer, "shape", 1).reshape(-1).tolist())
    if len(shape) not in (1, 3) or math.prod(shape) > MAX_LAYER_SIZE:
        expected = f"must be (C, H, W) or (N,), up to {MAX_LAYER_SIZE:,} neurons"
        raise NetxError(f"shape {shape[:_MAX_SHOWN]}", expected=expected)
    return shape


def _require_datasets(layer: StockLayer) -> None:
    """Raise unless the layer has all datasets that lava-dl needs, and not the one on which it fails."""
    if layer.missing:
        raise NetxError(f"{', '.join(layer.missing)} missing", expected=f"lava-dl needs {', '.join(layer.needed)}")
    if "neuron/messageBits" in layer.datasets:
        raise NetxError("has a dataset neuron/messageBits", expected="lava-dl fails on it")


def integer(layer: StockLayer, name: str, least: int, largest: int, *, cut: bool = False) -> int:
    """Return the single integer of a dataset, see `integers`."""
    value = integers(layer, name, least, largest, cut=cut)
    if value.size != 1:
        raise NetxError(f"{value.size} numbers in {name}", expected="must be one")
    return int(value.item())


def integers(
    layer: StockLayer, name: str, least: int = -MAX_SUM, largest: int = MAX_SUM, *, cut: bool = False
) -> Array:
    """Return the integers of a dataset, int64; with ``cut``, rounded towards 0 as by lava-dl's ``astype(int)``."""
    value = layer.numbers(name)
    if value is None:
        stored = layer.datasets[name]
        raise NetxError(f"{name} is {stored.dtype} of shape {stored.shape}", expected="must be numbers")
    if not (np.abs(value.astype(np.float64)) <= MAX_SUM).all():
        raise NetxError(f"{name} has numbers beyond +-{MAX_SUM:,}, or NaN")
    whole = value.astype(np.int64)
    if not cut and (whole != value).any():
        raise NetxError(f"{name} has numbers with a fraction", expected="must be integers")
    low, high = int(whole.min()), int(whole.max())
    if low < least or high > largest:
        raise NetxError(
            f"{name} {low_to_high((low, high), '{:,}'.format)}", expected=f"must be in {least:,}..{largest:,}"
        )
    return whole


GRADED_PIXEL: Final = 2**limits.MAX_PIXEL_BITS - 1
"""Largest value of a pixel that enters as a graded spike, in networks without input neurons."""


def decode_cuba(file: StockFile) -> CubaNetwork:
    """Return the network of CUBA neurons that lava-dl builds from ``file``."""
    shape, links = _chain(file, limits.LIF_BIAS_LIMIT)
    layers: list[CubaLayer] = []
    for link in links:
        with errors_within(link.name):
            neuron = INTEGRATOR
            if link.stock.kind != "dense" or link.stock.has_neurons:
                neuron = _neuron(link.stock, link.shape)
            if not isinstance(link.synapse, PixelBias):
                weight = np.abs(link.synapse.weight)
                largest = int(weight.reshape(len(weight), -1).sum(axis=1).max()) * (1 if layers else GRADED_PIXEL)
                if largest > MAX_SUM:
                    expected = f"must be at most {MAX_SUM:,}, or Lava's int32 wraps"
                    raise NetxError(f"a weighted sum that can reach {largest:,}", expected=expected)
            layers.append(CubaLayer(link.name, link.synapse, neuron, link.weight_shift))
    return CubaNetwork(shape, tuple(layers), _timesteps(file))


def _neuron(layer: StockLayer, shape: Shape) -> CubaNeuron:
    if not layer.is_cuba:
        raise NetxError(f"neurons of type '{layer.neuron_type}'", expected="must be one of CUBA, LOIHI")
    i_decay, v_decay = (integer(layer, f"neuron/{name}", 0, limits.MAX_DECAY) for name in ("iDecay", "vDecay"))
    threshold = integers(layer, "neuron/vThMant", 0, limits.THRESHOLD_LIMIT)
    each = per_neuron(threshold, "neuron/vThMant", shape, allows_one=True)
    return CubaNeuron(i_decay, v_decay, each.astype(np.int32))


def _timesteps(file: StockFile) -> int | None:
    value = file.simulation.get("tSample")
    fits = value is not None and value.size == 1 and value.dtype.kind in "iu" and 1 <= value.item() <= MAX_TIMESTEPS
    return int(value.item()) if value is not None and fits else None


_LARGEST: Final = limits.CURRENT_LIMIT >> (STOCK_SPIKE_EXP + limits.SIGMA_DELTA_STATE_EXP)
"""Largest bias and threshold that fit the 24-bit state."""
_OUTPUT: Final = "neuron/sigma_output"


def decode_sdnn(file: StockFile) -> GradedNetwork:
    """Return the network of sigma-delta neurons that lava-dl builds from ``file``, with its default ``spike_exp``."""
    shape, links = _chain(file, _LARGEST)
    layers = []
    for link in links:
        with errors_within(link.name):
            layers.append(_layer(link))
    if not isinstance(layers[0].synapse, PixelBias):
        raise NetxError(
            "no input neurons", where="layer 0", expected="must have SDNN neurons, which send the change of the input"
        )
    return GradedNetwork(shape, tuple(layers))


def _layer(link: Link) -> GradedLayer:
    stock, synapse = link.stock, link.synapse
    if not stock.is_sdnn:
        found = f"neurons of type '{stock.neuron_type}'" if stock.has_neurons else "has no neurons"
        raise NetxError(found, expected="must be SDNN, as in the other layers")
    if isinstance(synapse, Dense) and link.weight_shift:
        if (synapse.weight % (1 << link.weight_shift)).any():
            raise NetxError("weights that Lava's synapse clips", expected="must fit 8 bits")
        # Shifting the sum back is the same as shifting the weights, which are multiples of 2^shift.
        synapse = replace(synapse, weight=synapse.weight >> link.weight_shift)
    is_output = _OUTPUT in stock.datasets and not isinstance(synapse, PixelBias)
    if is_output and "bias" in stock.datasets:
        raise NetxError("has a bias", expected="must have none: Lava's Sigma takes no bias, and lava-dl fails")
    threshold = 0 if is_output else integer(stock, "neuron/vThMant", 0, _LARGEST)
    return GradedLayer(link.name, synapse, threshold, sends=not is_output)
