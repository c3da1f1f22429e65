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
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Granularity, Reset, Target
from loihi_convert.ground.files import refuse_to_overwrite, write_atomically
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

Named = Iterator[tuple[str, Array]]
"""Datasets in the order in which they are written."""


def write(network: QuantizedNetwork, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``network`` as a netx file; after a failure ``path`` is unchanged."""
    hint = "Pass `network` of what `convert` returns, or call its `save`."
    require_kind("network", network, QuantizedNetwork, "must be what `quantize` returns", hint)
    path = Path(path)
    refuse_to_overwrite(path, overwrite)
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        _require_size(layer.name, shape)
    write_atomically(path, hdf5.file_content(dict(encode(network))))


def write_graded(network: GradedNetwork, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``network``, made from a CNN, as a netx file; after a failure ``path`` is unchanged."""
    path = Path(path)
    refuse_to_overwrite(path, overwrite)
    for layer, shape in zip(network.layers[1:], network.shapes[1:], strict=True):
        _require_size(layer.name, shape)
        least, largest = int(_synapse(layer).weight.min()), int(_synapse(layer).weight.max())
        if least < -limits.WEIGHT_LIMIT - 1 or largest > limits.WEIGHT_LIMIT:
            raise NetxError(f"weights {least}..{largest}", where=layer.name, expected="must be 8-bit integers")
    write_atomically(path, hdf5.file_content(dict(encode_graded(network))))


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
        return decode(hdf5.read_native_datasets(content)), hashlib.sha256(content).hexdigest()


# From networks to datasets.


def encode(network: QuantizedNetwork) -> Named:
    """Yield the name and value of every dataset in a file of ``network``."""
    yield from _present("layer/0", type="input", shape=np.array(network.input_shape, np.int32))
    stored = network.stored
    groups = _chain(network.input_shape, [layer.synapse for layer in stored.layers], stored.shapes)
    for layer, (group, datasets) in zip(stored.layers, groups, strict=True):
        yield from datasets
        yield from _neurons(f"{group}/neuron", layer, network.thresholds)
    yield from _present(
        NATIVE_GROUP,
        format=np.int32(FORMAT),
        timesteps=np.int32(network.timesteps),
        proven_timesteps=np.int64(network.max_timesteps),
        pixel_bits=np.int32(network.pixel_bits),
        reset=network.reset,
        poisson_seed=None if network.poisson_seed is None else np.int64(network.poisson_seed),
        target=None if network.target == "lava" else network.target,
        thresholds=None if network.thresholds == "channel" else network.thresholds,
        provenance=json.dumps(dict(network.provenance), sort_keys=True),
    )
    for index, layer in enumerate(network.layers):
        neuron, balanced = layer.neuron, layer.balanced
        yield from _present(
            f"{NATIVE_GROUP}/layer/{index}",
            name=layer.name,
            scale=layer.scale.astype(np.float64),
            **_geometry(layer.synapse),
            initial_potential=None if neuron is None else neuron.initial_potential.astype(np.int32),
            **({} if balanced is None else {f"balanced/{k}": np.float64(getattr(balanced, k)) for k in _BALANCED}),
            correction=None if layer.correction is None else layer.correction.astype(np.float64),
            relay_of=_stored_relays(layer.relay_of),
            low_bits=np.int32(layer.low_bits) if layer.low_bits else None,
            offset=None if layer.offset is None else layer.offset.astype(np.float64),
        )


def _neurons(group: str, layer: QuantizedLayer, thresholds: Granularity) -> Named:
    if layer.neuron is None and layer.bias is None:
        # netx gives a dense layer without a neuron group a non-firing integrator, which is the readout we need.
        return
    # That integrator adds a bias only once; with a bias, the readout is an IF neuron that can never fire.
    threshold = np.array(limits.NEVER_FIRES) if layer.neuron is None else layer.neuron.threshold
    if thresholds == "scalar":
        threshold = threshold.max()
    decays = {"iDecay": np.int32(limits.I_DECAY), "vDecay": np.int32(limits.V_DECAY)}
    yield from _present(group, type="CUBA", **decays, vThMant=(threshold - 1).astype(np.int32))


def encode_graded(network: GradedNetwork) -> Named:
    """Yield the name and value of every dataset in a file of ``network``."""
    first, *layers = network.layers
    assert isinstance(first.synapse, PixelBias)
    weight, bias = np.int32(first.synapse.weight), np.int32(first.synapse.bias)
    yield from _present(
        "layer/0", type="input", shape=np.array(network.input_shape, np.int32), weight=weight, bias=bias
    )
    yield from _graded_neurons("layer/0/neuron", first)
    groups = _chain(network.input_shape, [_synapse(layer) for layer in layers], network.shapes[1:])
    for layer, (group, datasets) in zip(layers, groups, strict=True):
        yield from datasets
        yield from _graded_neurons(f"{group}/neuron", layer)
    yield from _present(
        NATIVE_GROUP,
        format=np.int32(FORMAT),
        spikes=_GRADED,
        spike_exp=np.int32(network.spike_exp),
        provenance=json.dumps(dict(network.provenance), sort_keys=True),
    )
    for index, layer in enumerate(layers):
        assert layer.scale is not None
        yield from _present(
            f"{NATIVE_GROUP}/layer/{index}",
            name=layer.name,
            scale=layer.scale.astype(np.float64),
            offset=None if layer.offset is None else layer.offset.astype(np.float64),
            relay_of=_stored_relays(layer.relay_of),
            **_geometry(_synapse(layer)),
        )


def _graded_neurons(group: str, layer: GradedLayer) -> Named:
    # Of sigma_output netx asks only whether it is there.
    kind = {"vThMant": np.int32(layer.threshold)} if layer.sends else {"sigma_output": np.int32(1)}
    return _present(group, type="SDNN", **kind)


def _synapse(layer: GradedLayer) -> Synapse:
    """The synapse of a layer after the input neurons."""
    assert not isinstance(layer.synapse, PixelBias)
    return layer.synapse


def _present(group: str, **values: str | Array | np.generic | None) -> Named:
    """Yield the datasets of ``group`` that are not None; text as bytes."""
    for name, value in values.items():
        if value is not None:
            yield f"{group}/{name}", np.array(value.encode()) if isinstance(value, str) else np.asarray(value)


def _chain(input_shape: Shape, synapses: Sequence[Synapse], shapes: Sequence[Shape]) -> Iterator[tuple[str, Named]]:
    """Yield the group and the synaptic datasets of each layer from 1 on, of output ``shapes``; a flatten comes before a
    dense layer of maps.
    """
    index = 1
    for synapse, shape in zip(synapses, shapes, strict=True):
        is_flattened = isinstance(synapse, Dense) and len(input_shape) == 3
        group = f"layer/{index + is_flattened}"
        yield group, _synaptic(group, synapse.without_pooling(input_shape), shape, f"layer/{index}" * is_flattened)
        input_shape, index = shape, index + 1 + is_flattened


def _synaptic(group: str, synapse: Synapse, shape: Shape, flatten: str) -> Named:
    """The datasets of a synapse without pooling, after those of the layer ``flatten``, if any."""
    if flatten:
        yield from _present(flatten, type="flatten")
    is_conv = isinstance(synapse, Conv)
    names = ("stride", "padding", "dilation", "groups") if is_conv else ()
    yield from _present(
        group,
        type="conv" if is_conv else "dense",
        shape=np.array(shape, np.int32),
        **{name: np.int32(getattr(synapse, name)) for name in names},
        weight=synapse.weight.astype(np.int8),
        # Lava's neuron axes are W, H, C.
        bias=None if synapse.bias is None else synapse.bias.transpose().astype(np.int32),
    )


def _geometry(synapse: Synapse) -> dict[str, Array]:
    """What the synapse is before its pooling and dilation are written out."""
    names = ("pool", "dilation") if isinstance(synapse, Conv) else ("pool",)
    return {name: np.array(getattr(synapse, name), np.int32) for name in names}


def _stored_relays(relay_of: Array | None) -> Array | None:
    return None if relay_of is None or not relay_count(relay_of) else relay_of.astype(np.int32)


# From datasets to networks.


def decode(datasets: Datasets) -> QuantizedNetwork:
    """Return the network in ``datasets``, which must be exactly the datasets that `write` writes for it.

    Raises
    ------
    NetxError
        If a dataset is missing, unexpected, or inconsistent with the rest.
    RangeError
        If the network breaks an exactness rule.
    """
    if SPIKES in datasets:
        hint = "`loihi-convert run`, `check` and `inspect` take it; nothing else does."
        raise NetxError("holds graded spikes", expected="must hold binary spikes here", hint=hint)
    _require_format(datasets)
    own = _inside(datasets, f"{NATIVE_GROUP}/")
    pixel_bits = _from_1_to(limits.MAX_PIXEL_BITS, own, "pixel_bits")
    poisson_seed = hdf5.integer(own["poisson_seed"]) if "poisson_seed" in own else None
    input_shape = shape = _input_shape(datasets)
    layers: list[QuantizedLayer] = []
    for kind, stock, extra in _stored_layers(datasets):
        low_bits = _from_1_to(MAX_LOW_BITS, extra, "low_bits") if "low_bits" in extra else 0
        synapse = _decoded_synapse(kind, stock, extra, shape)
        balanced = [extra[f"balanced/{name}"] for name in _BALANCED if f"balanced/{name}" in extra]
        layer = QuantizedLayer(
            name=hdf5.decoded(extra["name"]),
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
        shape = layer.synapse.output_shape(shape)
        _require_size(layer.name, shape)
        layers.append(layer)
    network = QuantizedNetwork(
        input_shape=input_shape,
        layers=tuple(layers),
        timesteps=hdf5.integer(own["timesteps"]),
        max_timesteps=hdf5.integer(own["proven_timesteps"]),
        pixel_bits=pixel_bits,
        reset=cast(Reset, _choice(own, "reset", get_args(Reset))),
        provenance=_provenance(own),
        poisson_seed=poisson_seed,
        target=cast(Target, _choice(own, "target", get_args(Target), default="lava")),
        thresholds=cast(Granularity, _choice(own, "thresholds", get_args(Granularity), default="channel")),
    )
    _require_encoding(datasets, dict(encode(network)))
    return network


def decode_graded(datasets: Datasets) -> GradedNetwork:
    """Return the network in ``datasets``, which must be exactly those that `write_graded` writes for it."""
    _require_format(datasets)
    input_shape = shape = _input_shape(datasets)
    pixels = PixelBias(hdf5.integer(datasets["layer/0/weight"]), hdf5.integer(datasets["layer/0/bias"]))
    layers = [GradedLayer(INPUT, pixels, hdf5.integer(datasets["layer/0/neuron/vThMant"]))]
    for kind, stock, extra in _stored_layers(datasets):
        sends = "neuron/sigma_output" not in stock
        layer = GradedLayer(
            hdf5.decoded(extra["name"]),
            _decoded_synapse(kind, stock, extra, shape),
            hdf5.integer(stock["neuron/vThMant"]) if sends else 0,
            sends=sends,
            scale=extra["scale"],
            offset=extra.get("offset"),
            relay_of=_decoded_relays(extra),
        )
        shape = _synapse(layer).output_shape(shape)
        _require_size(layer.name, shape)
        layers.append(layer)
    own = _inside(datasets, f"{NATIVE_GROUP}/")
    network = GradedNetwork(input_shape, tuple(layers), hdf5.integer(own["spike_exp"]), _provenance(own))
    _require_encoding(datasets, dict(encode_graded(network)))
    return network


def _require_format(datasets: Datasets) -> None:
    """Raise a `NetxError` unless ``datasets`` have the format that this version reads."""
    version = hdf5.integer(datasets[f"{NATIVE_GROUP}/format"])
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
    content = json.loads(hdf5.decoded(own["provenance"]))
    if not isinstance(content, dict):
        raise NetxError(f"found {type(content).__name__}", where="provenance", expected="must be a JSON object")
    provenance = Provenance(content)
    try:
        provenance.require_types()
    except InputError as error:
        where = f"provenance: {error.where}"
        raise NetxError(error.found, where=where, expected=error.expected, hint=EXPORT_AGAIN) from error
    return provenance


def _choice(own: Datasets, name: str, values: tuple[str, ...], default: str = "") -> str:
    """The string in dataset ``name``, which must be one of ``values``."""
    found = hdf5.decoded(own[name]) if name in own else default
    if found not in values:
        raise NetxError(f"found {found!r}", where=name, expected=one_of(values))
    return found


def _from_1_to(largest: int, datasets: Datasets, name: str) -> int:
    if not 1 <= (found := hdf5.integer(datasets[name])) <= largest:
        raise NetxError(f"found {found}", where=name, expected=f"must be in 1..{largest}")
    return found


def _input_shape(datasets: Datasets) -> Shape:
    """The shape of an image, ``(C, H, W)``."""
    shape: Shape = tuple(datasets["layer/0/shape"].tolist())
    if len(shape) != 3 or min(shape) < 1:
        raise NetxError(f"images of shape {shape}", where="layer/0/shape", expected="must be (C, H, W)")
    return shape


def _stored_layers(datasets: Datasets) -> list[tuple[str, Datasets, Datasets]]:
    """The type, the datasets and those that lava-dl never reads of each conv and dense layer."""
    count = len({name.split("/")[1] for name in datasets if name.startswith("layer/")})
    kinds = [hdf5.decoded(datasets[f"layer/{index}/type"]) for index in range(count)]
    places = [index for index, kind in enumerate(kinds) if kind in ("conv", "dense")]
    return [
        (kinds[index], _inside(datasets, f"layer/{index}/"), _inside(datasets, f"{NATIVE_GROUP}/layer/{synapse}/"))
        for synapse, index in enumerate(places)
    ]


def _inside(datasets: Datasets, prefix: str) -> Datasets:
    """The datasets in a group, by their names in it."""
    return {name.removeprefix(prefix): value for name, value in datasets.items() if name.startswith(prefix)}


def _decoded_neuron(stock: Datasets, extra: Datasets) -> IntegerNeuron | None:
    if "initial_potential" not in extra:
        return None
    threshold, initial = hdf5.integers(stock["neuron/vThMant"]) + 1, extra["initial_potential"]
    # A single number applies to all channels.
    return IntegerNeuron(np.full(initial.shape, threshold) if threshold.ndim == 0 else threshold, initial)


def _decoded_relays(extra: Datasets) -> Array | None:
    if "relay_of" not in extra:
        return None
    found = hdf5.integers(extra["relay_of"])
    if found.ndim != 1 or found.min(initial=0) < -1:
        raise NetxError(brief(found), where="relay_of", expected="must be a channel index or -1 for each channel")
    return found.astype(np.int64)


def _decoded_synapse(kind: str, stock: Datasets, extra: Datasets, input_shape: Shape) -> Synapse:
    """The synapse of a layer of type ``kind``, conv or dense, with its pooling."""
    pool, weight = hdf5.pair(extra["pool"]), stock["weight"]
    bias = hdf5.integers(stock["bias"]).transpose() if "bias" in stock else None
    if kind == "dense":
        if pool != (1, 1):
            _, height, width = input_shape
            maps = weight.reshape(-1, *input_shape)[:, :, : height // pool[0] * pool[0], : width // pool[1] * pool[1]]
            weight = maps[:, :, :: pool[0], :: pool[1]].reshape(len(weight), -1)
        return Dense(hdf5.integers(weight), bias, pool)
    dilation, stride = hdf5.pair(extra["dilation"]), hdf5.pair(stock["stride"])
    padding = hdf5.pair(stock["padding"], least=0)
    if pool != (1, 1):
        weight = weight[:, :, :: pool[0] * dilation[0], :: pool[1] * dilation[1]]
        kernel = tuple(pool[axis] * (dilation[axis] * (weight.shape[axis + 2] - 1) + 1) for axis in (0, 1))
        # Written out, a forged pooling could take all memory.
        if kernel != stock["weight"].shape[2:]:
            raise NetxError(f"weights of shape {stock['weight'].shape} after {pool} pooling", hint=EXPORT_AGAIN)
        stride, padding = (
            (stride[0] // pool[0], stride[1] // pool[1]),
            (padding[0] // pool[0], padding[1] // pool[1]),
        )
    return Conv(hdf5.integers(weight), bias, stride, padding, dilation, hdf5.integer(stock["groups"]), pool)
