"""GradedNetwork <-> the datasets of a netx file (``.net``).

The datasets that lava-dl's ``lava.lib.dl.netx.hdf5.Network`` reads, if it is called with ``spike_exp`` as stored::

    /layer/0        type=input, shape (C, H, W), weight, bias, neuron/       a pixel x, 0..1, enters as weight x + bias
    /layer/i        as in `native`, with neuron/ in each conv and dense layer
    .../neuron      type=SDNN, vThMant; sigma_output instead of vThMant in the last layer, if it sends no messages

A separate group, which lava-dl never reads, holds everything else::

    /loihi_convert              format, spikes=graded, spike_exp, provenance (JSON)
    /loihi_convert/layer/k      name, scale, offset, relay_of, pool, dilation    (k counts synapses from 0)

After reading, the network is encoded again; if the result differs from the file, the file is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import NetxError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.files import refuse_to_overwrite, write_atomically
from loihi_convert.ir.graded import INPUT, GradedLayer, GradedNetwork
from loihi_convert.ir.synapse import PixelBias, Synapse
from loihi_convert.netx.hdf5 import (
    EXPORT_AGAIN,
    NATIVE_GROUP,
    Datasets,
    decoded,
    encoded,
    file_content,
    integer,
    is_positive,
)
from loihi_convert.netx.native import FORMAT, SPIKES, decoded_provenance, require_format
from loihi_convert.netx.synapses import (
    ChannelNumbers,
    chain_datasets,
    decoded_input_shape,
    decoded_relays,
    decoded_synapse,
    geometry_datasets,
    relay_datasets,
    require_encoding,
    require_sound,
    stored_layers,
)

_GRADED: Final = "graded"


def write_graded(network: GradedNetwork, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``network``, made from a CNN, as a netx file; after a failure ``path`` is unchanged."""
    path = Path(path)
    refuse_to_overwrite(path, overwrite)
    for layer, shape in zip(network.layers[1:], network.shapes[1:], strict=True):
        _require_sound(layer, shape)
    write_atomically(path, file_content(dict(encode_graded(network))))


def encode_graded(network: GradedNetwork) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of every dataset in a file of ``network``."""
    yield from _stock_datasets(network)
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


def _stock_datasets(network: GradedNetwork) -> Iterator[tuple[str, Array]]:
    """The datasets that lava-dl reads."""
    first = network.layers[0]
    assert isinstance(first.synapse, PixelBias)
    yield "layer/0/type", encoded("input")
    yield "layer/0/shape", np.array(network.input_shape, np.int32)
    yield "layer/0/weight", np.array(first.synapse.weight, np.int32)
    yield "layer/0/bias", np.array(first.synapse.bias, np.int32)
    yield from _neuron_datasets("layer/0/neuron", first)
    groups = chain_datasets(network.input_shape, [_synapse(layer) for layer in network.layers[1:]], network.shapes[1:])
    for layer, (group, datasets) in zip(network.layers[1:], groups, strict=True):
        yield from datasets
        yield from _neuron_datasets(f"{group}/neuron", layer)


def _synapse(layer: GradedLayer) -> Synapse:
    """The synapse of a layer after the input neurons."""
    assert not isinstance(layer.synapse, PixelBias)
    return layer.synapse


def _neuron_datasets(group: str, layer: GradedLayer) -> Iterator[tuple[str, Array]]:
    yield f"{group}/type", encoded("SDNN")
    if layer.sends:
        yield f"{group}/vThMant", np.array(layer.threshold, np.int32)
    else:
        # netx asks only whether it is there.
        yield f"{group}/sigma_output", np.array(1, np.int32)


def decode_graded(datasets: Datasets) -> GradedNetwork:
    """Return the network in ``datasets``, which must be exactly those that `write_graded` writes for it."""
    network = _decode(datasets)
    require_encoding(datasets, dict(encode_graded(network)))
    return network


def _decode(datasets: Datasets) -> GradedNetwork:
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
        _require_sound(layer, shape)
        layers.append(layer)
    provenance = decoded_provenance(datasets)
    return GradedNetwork(input_shape, tuple(layers), integer(datasets[f"{NATIVE_GROUP}/spike_exp"]), provenance)


def _require_sound(layer: GradedLayer, shape: Shape) -> None:
    """Raise unless the layer has an acceptable size, 8-bit weights, and a valid scale and offset for each channel."""
    synapse = _synapse(layer)
    least, largest = int(synapse.weight.min()), int(synapse.weight.max())
    if least < -limits.WEIGHT_LIMIT - 1 or largest > limits.WEIGHT_LIMIT:
        raise NetxError(f"weights {least}..{largest}", where=layer.name, expected="must be 8-bit integers")
    numbers: list[ChannelNumbers] = [("scale", layer.scale, is_positive), ("offset", layer.offset, np.isfinite)]
    require_sound(layer.name, shape, synapse.channels, numbers)
