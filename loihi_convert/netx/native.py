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
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import InputError, NetxError, one_of, require_kind
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Granularity, Reset, Target
from loihi_convert.ground.files import refuse_to_overwrite, write_atomically
from loihi_convert.ir.graded import INPUT, GradedLayer, GradedNetwork
from loihi_convert.ir.network import IntegrateAndFire
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.quantized import (
    MAX_LOW_BITS,
    IntegerNeuron,
    QuantizedLayer,
    QuantizedNetwork,
    joined_synapse,
    largest_pixel,
)
from loihi_convert.ir.synapse import PixelBias, Synapse
from loihi_convert.netx.hdf5 import (
    EXPORT_AGAIN,
    NATIVE_GROUP,
    Datasets,
    decoded,
    encoded,
    errors_that_name,
    file_content,
    integer,
    integers,
    read_content,
    read_native_datasets,
)
from loihi_convert.netx.synapses import (
    chain_datasets,
    decoded_input_shape,
    decoded_relays,
    decoded_synapse,
    geometry_datasets,
    relay_datasets,
    require_encoding,
    require_size,
    stored_layers,
)

FORMAT: Final = 1
"""To be raised if older versions would misread or refuse new files."""
SPIKES: Final = f"{NATIVE_GROUP}/spikes"
"""Dataset that only files of graded spikes have."""
_BALANCED: Final = ("threshold", "amplitude", "initial_potential")


def write(network: QuantizedNetwork, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``network`` as a netx file; after a failure ``path`` is unchanged."""
    hint = "Pass `network` of what `convert` returns, or call its `save`."
    require_kind("network", network, QuantizedNetwork, "must be what `quantize` returns", hint)
    path = Path(path)
    refuse_to_overwrite(path, overwrite)
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        require_size(layer.name, shape)
    write_atomically(path, file_content(dict(encode(network))))


def read(path: str | Path) -> QuantizedNetwork:
    """As `read_with_digest`, without the digest."""
    return read_with_digest(path)[0]


def read_with_digest(path: str | Path) -> tuple[QuantizedNetwork, str]:
    """Return the network in the netx file at ``path``, checked against its digests and the exactness rules, and the
    SHA-256 of the file.
    """
    path = Path(path)
    content = read_content(path)
    with errors_that_name(path, hint=EXPORT_AGAIN):
        return decode(read_native_datasets(content)), hashlib.sha256(content).hexdigest()


def require_format(datasets: Datasets) -> None:
    """Raise a `NetxError` unless ``datasets`` have the format that this version reads."""
    version = integer(datasets[f"{NATIVE_GROUP}/format"])
    if version > FORMAT:
        found = f"written by a newer version of loihi-convert (format {version})"
        raise NetxError(found, where="format", hint="Update loihi-convert.")
    if version != FORMAT:
        raise NetxError(f"format {version}", where="format", expected=f"must be {FORMAT}", hint=EXPORT_AGAIN)


def decoded_provenance(datasets: Datasets) -> Provenance:
    """Return the provenance in ``datasets``.

    Raises
    ------
    NetxError
        If it is not a JSON object, or an entry has another type than `export` writes.
    """
    content = json.loads(decoded(datasets[f"{NATIVE_GROUP}/provenance"]))
    if not isinstance(content, dict):
        raise NetxError(f"found {type(content).__name__}", where="provenance", expected="must be a JSON object")
    provenance = Provenance(content)
    try:
        provenance.require_types()
    except InputError as error:
        where = f"provenance: {error.where}"
        raise NetxError(error.found, where=where, expected=error.expected, hint=EXPORT_AGAIN) from error
    return provenance


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
    network = _decode(datasets)
    require_encoding(datasets, dict(encode(network)))
    return network


def encode(network: QuantizedNetwork) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of every dataset in a file of ``network``."""
    yield from _stock_datasets(network)
    yield f"{NATIVE_GROUP}/format", np.array(FORMAT, np.int32)
    yield f"{NATIVE_GROUP}/timesteps", np.array(network.timesteps, np.int32)
    yield f"{NATIVE_GROUP}/proven_timesteps", np.array(network.max_timesteps, np.int64)
    yield f"{NATIVE_GROUP}/pixel_bits", np.array(network.pixel_bits, np.int32)
    yield f"{NATIVE_GROUP}/reset", encoded(network.reset)
    if network.poisson_seed is not None:
        yield f"{NATIVE_GROUP}/poisson_seed", np.array(network.poisson_seed, np.int64)
    if network.target != "lava":
        yield f"{NATIVE_GROUP}/target", encoded(network.target)
    if network.thresholds != "channel":
        yield f"{NATIVE_GROUP}/thresholds", encoded(network.thresholds)
    yield f"{NATIVE_GROUP}/provenance", encoded(json.dumps(dict(network.provenance), sort_keys=True))
    for index, layer in enumerate(network.layers):
        group = f"{NATIVE_GROUP}/layer/{index}"
        yield f"{group}/name", encoded(layer.name)
        yield f"{group}/scale", layer.scale.astype(np.float64)
        yield from geometry_datasets(group, layer.synapse)
        if layer.neuron is not None:
            yield f"{group}/initial_potential", layer.neuron.initial_potential.astype(np.int32)
        if layer.balanced is not None:
            for name in _BALANCED:
                yield f"{group}/balanced/{name}", getattr(layer.balanced, name).astype(np.float64)
        if layer.correction is not None:
            yield f"{group}/correction", layer.correction.astype(np.float64)
        yield from relay_datasets(group, layer.relay_of)
        if layer.low_bits:
            yield f"{group}/low_bits", np.array(layer.low_bits, np.int32)
        if layer.offset is not None:
            yield f"{group}/offset", layer.offset.astype(np.float64)


def _stock_datasets(network: QuantizedNetwork) -> Iterator[tuple[str, Array]]:
    """The datasets that lava-dl reads."""
    yield "layer/0/type", encoded("input")
    yield "layer/0/shape", np.array(network.input_shape, np.int32)
    layers = network.stored.layers
    groups = chain_datasets(network.input_shape, [layer.synapse for layer in layers], network.stored.shapes)
    for layer, (group, datasets) in zip(layers, groups, strict=True):
        yield from datasets
        yield from _neuron_datasets(f"{group}/neuron", layer, network.thresholds)


def _neuron_datasets(group: str, layer: QuantizedLayer, thresholds: Granularity) -> Iterator[tuple[str, Array]]:
    if layer.neuron is None and layer.bias is None:
        # netx gives a dense layer without a neuron group a non-firing integrator, which is the readout we need.
        return
    # That integrator adds a bias only once; with a bias, the readout is an IF neuron that can never fire.
    threshold = np.array(limits.NEVER_FIRES) if layer.neuron is None else layer.neuron.threshold
    if thresholds == "scalar":
        threshold = threshold.max()
    yield f"{group}/type", encoded("CUBA")
    yield f"{group}/iDecay", np.array(limits.I_DECAY, np.int32)
    yield f"{group}/vDecay", np.array(limits.V_DECAY, np.int32)
    yield f"{group}/vThMant", (threshold - 1).astype(np.int32)


def _decode(datasets: Datasets) -> QuantizedNetwork:
    """The network in ``datasets``; `require_encoding` then checks the datasets that are not read here."""
    require_format(datasets)
    pixel_bits = integer(datasets[f"{NATIVE_GROUP}/pixel_bits"])
    if not 1 <= pixel_bits <= limits.MAX_PIXEL_BITS:
        expected = f"must be in 1..{limits.MAX_PIXEL_BITS}"
        raise NetxError(f"{pixel_bits}-bit pixels", where="pixel_bits", expected=expected)
    seed = datasets.get(f"{NATIVE_GROUP}/poisson_seed")
    poisson_seed = None if seed is None else integer(seed)
    input_shape = shape = decoded_input_shape(datasets)
    layers: list[QuantizedLayer] = []
    for kind, stock, extra in stored_layers(datasets):
        low_bits = _decode_low_bits(extra)
        synapse = decoded_synapse(kind, stock, extra, shape)
        layer = QuantizedLayer(
            name=decoded(extra["name"]),
            synapse=joined_synapse(synapse, low_bits) if low_bits else synapse,
            neuron=_decode_neuron(stock, extra),
            scale=extra["scale"],
            largest_input=1 if layers else largest_pixel(poisson_seed, pixel_bits),
            balanced=_decode_balanced(extra),
            correction=extra.get("correction"),
            relay_of=decoded_relays(extra),
            low_bits=low_bits,
            offset=extra.get("offset"),
        )
        shape = layer.synapse.output_shape(shape)
        require_size(layer.name, shape)
        layers.append(layer)
    reset = _choice(datasets, "reset", get_args(Reset))
    target = _choice(datasets, "target", get_args(Target), default="lava")
    thresholds = _choice(datasets, "thresholds", get_args(Granularity), default="channel")
    provenance = decoded_provenance(datasets)
    return QuantizedNetwork(
        input_shape=input_shape,
        layers=tuple(layers),
        timesteps=integer(datasets[f"{NATIVE_GROUP}/timesteps"]),
        max_timesteps=integer(datasets[f"{NATIVE_GROUP}/proven_timesteps"]),
        pixel_bits=pixel_bits,
        reset=cast(Reset, reset),
        provenance=provenance,
        poisson_seed=poisson_seed,
        target=cast(Target, target),
        thresholds=cast(Granularity, thresholds),
    )


def _choice(datasets: Datasets, name: str, values: tuple[str, ...], default: str = "") -> str:
    """The string in dataset ``name``, which must be one of ``values``."""
    stored = datasets.get(f"{NATIVE_GROUP}/{name}")
    found = default if stored is None else decoded(stored)
    if found not in values:
        raise NetxError(f"found {found!r}", where=name, expected=one_of(values))
    return found


def _decode_neuron(stock: Datasets, extra: Datasets) -> IntegerNeuron | None:
    if "initial_potential" not in extra:
        return None
    threshold, initial = integers(stock["neuron/vThMant"]) + 1, extra["initial_potential"]
    # A single number applies to all channels.
    return IntegerNeuron(np.full(initial.shape, threshold) if threshold.ndim == 0 else threshold, initial)


def _decode_balanced(extra: Datasets) -> IntegrateAndFire | None:
    if not any(name.startswith("balanced/") for name in extra):
        return None
    return IntegrateAndFire(*(extra[f"balanced/{name}"] for name in _BALANCED))


def _decode_low_bits(extra: Datasets) -> int:
    if "low_bits" not in extra:
        return 0
    found = integer(extra["low_bits"])
    if not 1 <= found <= MAX_LOW_BITS:
        raise NetxError(f"found {found}", where="low_bits", expected=f"must be in 1..{MAX_LOW_BITS}")
    return found


_GRADED: Final = "graded"


def write_graded(network: GradedNetwork, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``network``, made from a CNN, as a netx file; after a failure ``path`` is unchanged."""
    path = Path(path)
    refuse_to_overwrite(path, overwrite)
    for layer, shape in zip(network.layers[1:], network.shapes[1:], strict=True):
        _require_storable(layer, shape)
    write_atomically(path, file_content(dict(encode_graded(network))))


def encode_graded(network: GradedNetwork) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of every dataset in a file of ``network``."""
    yield from _graded_stock_datasets(network)
    yield f"{NATIVE_GROUP}/format", np.array(FORMAT, np.int32)
    yield SPIKES, encoded(_GRADED)
    yield f"{NATIVE_GROUP}/spike_exp", np.array(network.spike_exp, np.int32)
    yield f"{NATIVE_GROUP}/provenance", encoded(json.dumps(dict(network.provenance), sort_keys=True))
    for index, layer in enumerate(network.layers[1:]):
        assert layer.scale is not None
        group = f"{NATIVE_GROUP}/layer/{index}"
        yield f"{group}/name", encoded(layer.name)
        yield f"{group}/scale", layer.scale.astype(np.float64)
        if layer.offset is not None:
            yield f"{group}/offset", layer.offset.astype(np.float64)
        yield from relay_datasets(group, layer.relay_of)
        yield from geometry_datasets(group, _synapse(layer))


def _graded_stock_datasets(network: GradedNetwork) -> Iterator[tuple[str, Array]]:
    """The datasets that lava-dl reads."""
    first = network.layers[0]
    assert isinstance(first.synapse, PixelBias)
    yield "layer/0/type", encoded("input")
    yield "layer/0/shape", np.array(network.input_shape, np.int32)
    yield "layer/0/weight", np.array(first.synapse.weight, np.int32)
    yield "layer/0/bias", np.array(first.synapse.bias, np.int32)
    yield from _graded_neuron_datasets("layer/0/neuron", first)
    groups = chain_datasets(network.input_shape, [_synapse(layer) for layer in network.layers[1:]], network.shapes[1:])
    for layer, (group, datasets) in zip(network.layers[1:], groups, strict=True):
        yield from datasets
        yield from _graded_neuron_datasets(f"{group}/neuron", layer)


def _synapse(layer: GradedLayer) -> Synapse:
    """The synapse of a layer after the input neurons."""
    assert not isinstance(layer.synapse, PixelBias)
    return layer.synapse


def _graded_neuron_datasets(group: str, layer: GradedLayer) -> Iterator[tuple[str, Array]]:
    yield f"{group}/type", encoded("SDNN")
    if layer.sends:
        yield f"{group}/vThMant", np.array(layer.threshold, np.int32)
    else:
        # netx asks only whether it is there.
        yield f"{group}/sigma_output", np.array(1, np.int32)


def decode_graded(datasets: Datasets) -> GradedNetwork:
    """Return the network in ``datasets``, which must be exactly those that `write_graded` writes for it."""
    network = _decode_graded(datasets)
    require_encoding(datasets, dict(encode_graded(network)))
    return network


def _decode_graded(datasets: Datasets) -> GradedNetwork:
    require_format(datasets)
    if (spikes := decoded(datasets[SPIKES])) != _GRADED:
        raise NetxError(f"found {spikes!r}", where="spikes", expected=f"must be {_GRADED}", hint=EXPORT_AGAIN)
    input_shape = decoded_input_shape(datasets)
    pixels = PixelBias(integer(datasets["layer/0/weight"]), integer(datasets["layer/0/bias"]))
    layers = [GradedLayer(INPUT, pixels, integer(datasets["layer/0/neuron/vThMant"]))]
    shape = input_shape
    for kind, stock, extra in stored_layers(datasets):
        synapse = decoded_synapse(kind, stock, extra, shape)
        sends = "neuron/sigma_output" not in stock
        layer = GradedLayer(
            decoded(extra["name"]),
            synapse,
            integer(stock["neuron/vThMant"]) if sends else 0,
            sends=sends,
            scale=extra["scale"],
            offset=extra.get("offset"),
            relay_of=decoded_relays(extra),
        )
        shape = synapse.output_shape(shape)
        _require_storable(layer, shape)
        layers.append(layer)
    provenance = decoded_provenance(datasets)
    return GradedNetwork(input_shape, tuple(layers), integer(datasets[f"{NATIVE_GROUP}/spike_exp"]), provenance)


def _require_storable(layer: GradedLayer, shape: Shape) -> None:
    """Raise unless the layer has an acceptable size and 8-bit weights."""
    require_size(layer.name, shape)
    weight = _synapse(layer).weight
    least, largest = int(weight.min()), int(weight.max())
    if least < -limits.WEIGHT_LIMIT - 1 or largest > limits.WEIGHT_LIMIT:
        raise NetxError(f"weights {least}..{largest}", where=layer.name, expected="must be 8-bit integers")
