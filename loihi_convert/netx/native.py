"""QuantizedNetwork or GradedNetwork <-> the datasets of a netx file (``.net``).

The datasets that lava-dl's ``lava.lib.dl.netx.hdf5.Network`` reads::

    /layer/0        type=input, shape (C, H, W)
    /layer/i        type=conv   shape, weight (O, I/groups, kH, kW), bias?, stride, padding, dilation, groups, neuron/
    /layer/i        type=flatten
    /layer/i        type=dense  shape, weight (N_out, N_in), bias?, neuron/?
    .../neuron      type=CUBA, iDecay=4096, vDecay=0, vThMant = threshold - 1, per channel or one number

netx has no pooling: a layer after a pooling is written as the strided convolution (or the larger dense matrix) with the
same result. A separate group, which lava-dl never reads, holds everything else::

    /loihi_convert              format, timesteps, proven_timesteps, pixel_bits, reset, provenance (JSON);
                                poisson_seed, if pixels enter as Poisson spikes;
                                target, if not lava;
                                thresholds, if each layer has a single threshold
    /loihi_convert/layer/k      name, scale, pool, dilation, initial_potential   (k counts synapses from 0)
    .../balanced                threshold, amplitude, initial_potential          in floating point, before rounding
    .../correction              the correction added to the CNN's bias           the same, if biases were corrected
    .../relay_of                per channel, the channel of the layer before that it repeats, or -1; if there are relays
    .../low_bits                bits of the low digit, if the last layer is stored in two digits (`ir.quantized.split`)
    .../offset                  for the outputs of a regression: added to potential x scale / T

A file of graded spikes has, for lava-dl if it is called with ``spike_exp`` as stored::

    /layer/0        type=input, shape (C, H, W), weight, bias, neuron/       a pixel x, 0..1, enters as weight x + bias
    /layer/i        as above, with neuron/ in each conv and dense layer
    .../neuron      type=SDNN, vThMant; sigma_output instead of vThMant in the last layer, if it sends no messages
    /loihi_convert              format, spikes=graded, spike_exp, provenance
    /loihi_convert/layer/k      name, scale, offset, relay_of, pool, dilation

After reading, the network is encoded again; if the result differs from the file, the file is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import InputError, NetxError, one_of, require_kind
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ground.choices import Granularity, Reset, Target
from loihi_convert.ground.files import write_atomically
from loihi_convert.ir.graded import INPUT, GradedLayer, GradedNetwork
from loihi_convert.ir.network import IntegrateAndFire, brief, relay_count
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.quantized import (
    MAX_LOW_BITS,
    IntegerNeuron,
    QuantizedLayer,
    QuantizedNetwork,
    joined_synapse,
    largest_pixel,
)
from loihi_convert.ir.synapse import Conv, Dense, PixelBias, Synapse
from loihi_convert.netx import hdf5
from loihi_convert.netx.hdf5 import EXPORT_AGAIN, NATIVE_GROUP, Datasets

FORMAT: Final = 1
"""To be raised if older versions would misread or refuse new files."""
SPIKES: Final = f"{NATIVE_GROUP}/spikes"
"""Dataset that only files of graded spikes have."""
_GRADED: Final = "graded"
_BALANCED: Final = ("threshold", "amplitude", "initial_potential")

_GEOMETRY: Final = ("stride", "padding", "dilation", "groups")

Named = Iterator[tuple[str, Array]]
"""Datasets in the order in which they are written."""
_AnyLayer = QuantizedLayer | GradedLayer


def write(network: QuantizedNetwork | GradedNetwork, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``network``, made from a CNN, as a netx file; after a failure ``path`` is unchanged."""
    if not isinstance(network, GradedNetwork):
        hint = "Pass `network` of what `convert` returns, or call its `save`."
        require_kind("network", network, QuantizedNetwork, "must be what `quantize` returns", hint)
    # A readout of two digits is stored as two layers of 8 bits.
    layers = _with_synapses(network.stored)
    for layer, shape in zip(layers, network.stored.shapes[-len(layers) :], strict=True):
        _require_size(layer.name, shape)
        least, largest = int(_synapse(layer).weight.min()), int(_synapse(layer).weight.max())
        if least < -limits.WEIGHT_LIMIT - 1 or largest > limits.WEIGHT_LIMIT:
            raise NetxError(f"weights {least}..{largest}", where=layer.name, expected="must be 8-bit integers")
    write_atomically(Path(path), hdf5.file_content(dict(encode(network))), overwrite=overwrite)


def read(path: str | Path) -> QuantizedNetwork:
    """As `read_with_digest`, without the digest."""
    return read_with_digest(path)[0]


def read_with_digest(path: str | Path) -> tuple[QuantizedNetwork, str]:
    """Return the network in the netx file at ``path``, checked against its digests and the exactness rules, and the
    SHA-256 of the file.
    """
    path = Path(path)
    content = hdf5.read_content(path)
    with hdf5.errors_that_name(path, hint=EXPORT_AGAIN):
        network = decode(hdf5.read_native_datasets(content))
        if isinstance(network, GradedNetwork):
            hint = "`loihi-convert run`, `check` and `inspect` take it; nothing else does."
            raise NetxError("holds graded spikes", expected="must hold binary spikes here", hint=hint)
        return network, hashlib.sha256(content).hexdigest()


# From networks to datasets.


def encode(network: QuantizedNetwork | GradedNetwork) -> Named:
    """Yield the name and value of every dataset in a file of ``network``."""
    yield from _present("layer/0", type="input", shape=np.array(network.input_shape, np.int32))
    pixels = network.layers[0].synapse
    if isinstance(pixels, PixelBias):
        yield from _present("layer/0", weight=np.int32(pixels.weight), bias=np.int32(pixels.bias))
        yield from _present("layer/0/neuron", **_neuron(network.layers[0]))
    stored, shape, index = network.stored, network.input_shape, 1
    for layer in _with_synapses(stored):
        synapse = _synapse(layer)
        if isinstance(synapse, Dense) and len(shape) == 3:
            yield from _present(f"layer/{index}", type="flatten")
            index += 1
        yield from _present(f"layer/{index}", **_synaptic(synapse, shape))
        yield from _present(f"layer/{index}/neuron", **_neuron(layer, getattr(network, "thresholds", "channel")))
        shape, index = synapse.output_shape(shape), index + 1
    yield from _present(NATIVE_GROUP, format=np.int32(FORMAT), **_settings(network))
    for number, layer in enumerate(_with_synapses(network)):
        yield from _present(f"{NATIVE_GROUP}/layer/{number}", name=layer.name, **_numbers(layer))


_Values = dict[str, str | Array | np.generic | None]


def _settings(network: QuantizedNetwork | GradedNetwork) -> _Values:
    provenance = json.dumps(dict(network.provenance), sort_keys=True)
    if isinstance(network, GradedNetwork):
        return {"spikes": _GRADED, "spike_exp": np.int32(network.spike_exp), "provenance": provenance}
    return {
        "timesteps": np.int32(network.timesteps),
        "proven_timesteps": np.int64(network.max_timesteps),
        "pixel_bits": np.int32(network.pixel_bits),
        "reset": network.reset,
        "poisson_seed": _as(np.int64, network.poisson_seed),
        "target": None if network.target == "lava" else network.target,
        "thresholds": None if network.thresholds == "channel" else network.thresholds,
        "provenance": provenance,
    }


def _numbers(layer: _AnyLayer) -> _Values:
    """What lava-dl never reads of a layer, its synapse before pooling and dilation are written out."""
    synapse = _synapse(layer)
    geometry = {
        name: np.array(getattr(synapse, name), np.int32) for name in ("pool", "dilation") if hasattr(synapse, name)
    }
    scale, offset = _as(np.float64, layer.scale), _as(np.float64, layer.offset)
    relay_of = _as(np.int32, layer.relay_of if relay_count(layer.relay_of) else None)
    if isinstance(layer, GradedLayer):
        return {"scale": scale, "offset": offset, "relay_of": relay_of, **geometry}
    return {
        "scale": scale,
        **geometry,
        "initial_potential": _as(np.int32, layer.initial_potential),
        **{f"balanced/{name}": _as(np.float64, getattr(layer.balanced, name, None)) for name in _BALANCED},
        "correction": _as(np.float64, layer.correction),
        "relay_of": relay_of,
        "low_bits": _as(np.int32, layer.low_bits or None),
        "offset": offset,
    }


def _neuron(layer: _AnyLayer, thresholds: Granularity = "channel") -> _Values:
    if isinstance(layer, GradedLayer):
        # Of sigma_output netx asks only whether it is there.
        kind = {"vThMant": np.int32(layer.threshold)} if layer.sends else {"sigma_output": np.int32(1)}
        return {"type": "SDNN", **kind}
    if layer.neuron is None and layer.bias is None:
        # netx gives a dense layer without a neuron group a non-firing integrator, which is the readout we need.
        return {}
    # That integrator adds a bias only once; with a bias, the readout is an IF neuron that can never fire.
    threshold = np.array(limits.NEVER_FIRES) if layer.threshold is None else layer.threshold
    if thresholds == "scalar":
        threshold = threshold.max()
    decays = {"iDecay": np.int32(limits.I_DECAY), "vDecay": np.int32(limits.V_DECAY)}
    return {"type": "CUBA", **decays, "vThMant": (threshold - 1).astype(np.int32)}


def _synaptic(synapse: Synapse, input_shape: Shape) -> _Values:
    """The synapse without its pooling."""
    written, shape = synapse.without_pooling(input_shape), synapse.output_shape(input_shape)
    is_conv = isinstance(written, Conv)
    return {
        "type": "conv" if is_conv else "dense",
        "shape": np.array(shape, np.int32),
        **{name: np.int32(getattr(written, name)) for name in _GEOMETRY * is_conv},
        "weight": written.weight.astype(np.int8),
        # Lava's neuron axes are W, H, C.
        "bias": None if written.bias is None else written.bias.transpose().astype(np.int32),
    }


def _as(dtype: type[np.generic], value: object) -> Array | None:
    return None if value is None else np.asarray(value, dtype)


def _present(group: str, **values: str | Array | np.generic | None) -> Named:
    """Yield the datasets of ``group`` that are not None; text as bytes."""
    for name, value in values.items():
        if value is not None:
            yield f"{group}/{name}", np.array(value.encode()) if isinstance(value, str) else np.asarray(value)


def _with_synapses(network: QuantizedNetwork | GradedNetwork) -> Sequence[_AnyLayer]:
    """The layers but for the input neurons."""
    return [layer for layer in network.layers if not isinstance(layer.synapse, PixelBias)]


def _synapse(layer: _AnyLayer) -> Synapse:
    """The synapse of a layer after the input neurons."""
    assert not isinstance(layer.synapse, PixelBias)
    return layer.synapse


# From datasets to networks.


def decode(datasets: Datasets) -> QuantizedNetwork | GradedNetwork:
    """Return the network in ``datasets``, which must be exactly those that `write` writes for it."""
    # What is missing, or of another type or shape, raises an exception here or differs when it is encoded again.
    _require_format(datasets)
    network = _decoded_graded(datasets) if SPIKES in datasets else _decoded(datasets)
    _require_encoding(datasets, dict(encode(network)))
    return network


def _decoded(datasets: Datasets) -> QuantizedNetwork:
    own = _inside(datasets, f"{NATIVE_GROUP}/")
    pixel_bits = _from_1_to(limits.MAX_PIXEL_BITS, own, "pixel_bits")
    poisson_seed = own["poisson_seed"].item() if "poisson_seed" in own else None
    layers: list[QuantizedLayer] = []
    for synapse, stock, extra in _stored_layers(datasets):
        low_bits = _from_1_to(MAX_LOW_BITS, extra, "low_bits") if "low_bits" in extra else 0
        balanced = [extra[f"balanced/{name}"] for name in _BALANCED if f"balanced/{name}" in extra]
        layer = QuantizedLayer(
            name=extra["name"].item().decode(),
            synapse=joined_synapse(synapse, low_bits) if low_bits else synapse,
            neuron=_decoded_neuron(stock, extra),
            scale=extra["scale"],
            largest_input=1 if layers else largest_pixel(poisson_seed, pixel_bits),
            balanced=IntegrateAndFire(*balanced) if balanced else None,
            correction=extra.get("correction"),
            relay_of=_decoded_relays(extra),
            low_bits=low_bits,
            offset=extra.get("offset"),
        )
        layers.append(layer)
    return QuantizedNetwork(
        input_shape=_input_shape(datasets),
        layers=tuple(layers),
        timesteps=own["timesteps"].item(),
        max_timesteps=own["proven_timesteps"].item(),
        pixel_bits=pixel_bits,
        reset=cast(Reset, _choice(own, "reset", get_args(Reset))),
        provenance=_provenance(own),
        poisson_seed=poisson_seed,
        target=cast(Target, _choice(own, "target", get_args(Target), default="lava")),
        thresholds=cast(Granularity, _choice(own, "thresholds", get_args(Granularity), default="channel")),
    )


def _decoded_graded(datasets: Datasets) -> GradedNetwork:
    own = _inside(datasets, f"{NATIVE_GROUP}/")
    pixels = PixelBias(datasets["layer/0/weight"].item(), datasets["layer/0/bias"].item())
    layers = [GradedLayer(INPUT, pixels, datasets["layer/0/neuron/vThMant"].item())]
    for synapse, stock, extra in _stored_layers(datasets):
        sends = "neuron/sigma_output" not in stock
        layer = GradedLayer(
            extra["name"].item().decode(),
            synapse,
            stock["neuron/vThMant"].item() if sends else 0,
            sends=sends,
            scale=extra["scale"],
            offset=extra.get("offset"),
            relay_of=_decoded_relays(extra),
        )
        layers.append(layer)
    return GradedNetwork(_input_shape(datasets), tuple(layers), own["spike_exp"].item(), _provenance(own))


def _require_format(datasets: Datasets) -> None:
    """Raise a `NetxError` unless ``datasets`` have the format that this version reads."""
    version = datasets[f"{NATIVE_GROUP}/format"].item()
    if version > FORMAT:
        found = f"written by a newer version of loihi-convert (format {version})"
        raise NetxError(found, where="format", hint="Update loihi-convert.")
    if version != FORMAT:
        raise NetxError(f"format {version}", where="format", expected=f"must be {FORMAT}", hint=EXPORT_AGAIN)


def _require_encoding(datasets: Datasets, expected: Datasets) -> None:
    """Raise unless ``datasets`` are ``expected``, those written for the network read from them, bit for bit."""
    for name in sorted(datasets.keys() | expected.keys()):
        if name not in datasets:
            raise NetxError("missing", where=name, hint=EXPORT_AGAIN)
        if name not in expected:
            raise NetxError("unexpected in a file of this network", where=name, hint=EXPORT_AGAIN)
        found, wanted = datasets[name], expected[name]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape) or found.tobytes() != wanted.tobytes():
            differs = f"{brief(found)} is inconsistent with the rest of the file"
            raise NetxError(differs, where=name, expected=f"expected {brief(wanted)}", hint=EXPORT_AGAIN)


def _require_size(name: str, shape: Shape) -> None:
    """Raise a `NetxError` unless the output of layer ``name`` has an acceptable size."""
    if (neurons := math.prod(shape)) > hdf5.MAX_LAYER_SIZE:
        raise NetxError(f"{neurons:,} neurons", where=name, expected=f"must be at most {hdf5.MAX_LAYER_SIZE:,}")


def _provenance(own: Datasets) -> Provenance:
    """The provenance, a JSON object whose entries have the types that `export` writes."""
    provenance = Provenance(json.loads(own["provenance"].item()))
    try:
        provenance.require_types()
    except InputError as error:
        where = f"provenance: {error.where}"
        raise NetxError(error.found, where=where, expected=error.expected, hint=EXPORT_AGAIN) from error
    return provenance


def _choice(own: Datasets, name: str, values: tuple[str, ...], default: str = "") -> str:
    """The string in dataset ``name``, which must be one of ``values``."""
    found = own[name].item().decode() if name in own else default
    if found not in values:
        raise NetxError(f"found {found!r}", where=name, expected=one_of(values))
    return found


def _from_1_to(largest: int, datasets: Datasets, name: str) -> int:
    found: int = datasets[name].item()
    if not 1 <= found <= largest:
        raise NetxError(f"found {found}", where=name, expected=f"must be in 1..{largest}")
    return found


def _input_shape(datasets: Datasets) -> Shape:
    """The shape of an image, ``(C, H, W)``."""
    shape: Shape = tuple(datasets["layer/0/shape"].tolist())
    if len(shape) != 3 or min(shape) < 1:
        raise NetxError(f"images of shape {shape}", where="layer/0/shape", expected="must be (C, H, W)")
    return shape


def _stored_layers(datasets: Datasets) -> Iterator[tuple[Synapse, Datasets, Datasets]]:
    """Yield the synapse of each conv and dense layer, all its datasets, and those that lava-dl never reads."""
    shape, number = _input_shape(datasets), 0
    for index in range(len({name.split("/")[1] for name in datasets if name.startswith("layer/")})):
        stock, extra = _inside(datasets, f"layer/{index}/"), _inside(datasets, f"{NATIVE_GROUP}/layer/{number}/")
        kind = stock["type"].item()
        if kind in (b"conv", b"dense"):
            synapse = (_decoded_conv if kind == b"conv" else _decoded_dense)(stock, extra, shape)
            shape, number = synapse.output_shape(shape), number + 1
            _require_size(extra["name"].item().decode(), shape)
            yield synapse, stock, extra


def _inside(datasets: Datasets, prefix: str) -> Datasets:
    """The datasets in a group, by their names in it."""
    return {name.removeprefix(prefix): value for name, value in datasets.items() if name.startswith(prefix)}


def _decoded_neuron(stock: Datasets, extra: Datasets) -> IntegerNeuron | None:
    if "initial_potential" not in extra:
        return None
    threshold, initial = _integers(stock["neuron/vThMant"]) + 1, extra["initial_potential"]
    # A single number applies to all channels.
    return IntegerNeuron(np.full(initial.shape, threshold) if threshold.ndim == 0 else threshold, initial)


def _decoded_relays(extra: Datasets) -> Array | None:
    return _integers(extra["relay_of"]).astype(np.int64) if "relay_of" in extra else None


def _decoded_dense(stock: Datasets, extra: Datasets, input_shape: Shape) -> Dense:
    pool, weight = _pair(extra["pool"]), stock["weight"]
    if pool != (1, 1):
        _, height, width = input_shape
        maps = weight.reshape(-1, *input_shape)[:, :, : height // pool[0] * pool[0], : width // pool[1] * pool[1]]
        weight = maps[:, :, :: pool[0], :: pool[1]].reshape(len(weight), -1)
    return Dense(_integers(weight), _decoded_bias(stock), pool)


def _decoded_conv(stock: Datasets, extra: Datasets, _: Shape) -> Conv:
    (pool_h, pool_w), weight = _pair(extra["pool"]), stock["weight"]
    dilation, stride, padding = (_pair(values) for values in (extra["dilation"], stock["stride"], stock["padding"]))
    if (pool_h, pool_w) != (1, 1):
        weight = weight[:, :, :: pool_h * dilation[0], :: pool_w * dilation[1]]
        kernel = tuple(
            pool * (step * (taps - 1) + 1)
            for pool, step, taps in zip((pool_h, pool_w), dilation, weight.shape[2:], strict=True)
        )
        # Written out, a forged pooling could take all memory.
        if kernel != stock["weight"].shape[2:]:
            found = f"weights of shape {stock['weight'].shape} after {(pool_h, pool_w)} pooling"
            raise NetxError(found, hint=EXPORT_AGAIN)
        stride, padding = ((rows // pool_h, columns // pool_w) for rows, columns in (stride, padding))
    groups, pool = stock["groups"].item(), (pool_h, pool_w)
    return Conv(_integers(weight), _decoded_bias(stock), stride, padding, dilation, groups, pool)


def _decoded_bias(stock: Datasets) -> Array | None:
    return _integers(stock["bias"]).transpose() if "bias" in stock else None


def _integers(value: Array) -> Array:
    """Integers as int32."""
    if value.dtype.kind != "i":
        raise NetxError(brief(value), expected="must be integers", hint=EXPORT_AGAIN)
    return value.astype(np.int32)


def _pair(value: Array) -> Pair:
    first, second = _integers(value).tolist()
    return first, second
