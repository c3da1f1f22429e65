"""Synapses <-> the datasets of a layer in a native netx file, which lava-dl reads.

netx has no pooling: a layer after a pooling is written as the strided convolution (or the larger dense matrix) with the
same result. The pooling and the dilation, which that convolution has not, are stored in a second group, ``extra``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from loihi_convert.errors import NetxError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.network import brief, relay_count
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.netx.hdf5 import (
    EXPORT_AGAIN,
    MAX_LAYER_SIZE,
    NATIVE_GROUP,
    Datasets,
    decoded,
    encoded,
    integer,
    integers,
    pair,
)


def chain_datasets(
    input_shape: Shape, synapses: Iterable[Synapse], shapes: Iterable[Shape]
) -> Iterator[tuple[str, list[tuple[str, Array]]]]:
    """Yield the group and the datasets of each layer from 1 on; a flatten comes before a dense layer of maps.

    ``shapes`` are the layers' outputs.
    """
    index = 1
    for synapse, shape in zip(synapses, shapes, strict=True):
        written = synapse.without_pooling(input_shape)
        datasets: list[tuple[str, Array]] = []
        if isinstance(written, Dense) and len(input_shape) == 3:
            datasets.append((f"layer/{index}/type", encoded("flatten")))
            index += 1
        yield f"layer/{index}", [*datasets, *_synapse_datasets(f"layer/{index}", written, shape)]
        input_shape, index = shape, index + 1


def _synapse_datasets(group: str, synapse: Synapse, shape: Shape) -> Iterator[tuple[str, Array]]:
    """Yield the datasets of a layer, ``group``, with output ``shape``; the synapse must be without pooling."""
    yield f"{group}/type", encoded("conv" if isinstance(synapse, Conv) else "dense")
    yield f"{group}/shape", np.array(shape, np.int32)
    if isinstance(synapse, Conv):
        for name in ("stride", "padding", "dilation"):
            yield f"{group}/{name}", np.array(getattr(synapse, name), np.int32)
        yield f"{group}/groups", np.array(synapse.groups, np.int32)
    yield f"{group}/weight", synapse.weight.astype(np.int8)
    if synapse.bias is not None:
        # Lava's neuron axes are W, H, C.
        yield f"{group}/bias", synapse.bias.transpose().astype(np.int32)


def geometry_datasets(group: str, synapse: Synapse) -> Iterator[tuple[str, Array]]:
    """Yield the datasets of ``extra`` for a synapse as it is before its pooling is written out."""
    yield f"{group}/pool", np.array(synapse.pool, np.int32)
    if isinstance(synapse, Conv):
        yield f"{group}/dilation", np.array(synapse.dilation, np.int32)


def decoded_input_shape(datasets: Datasets) -> Shape:
    """Return the shape of an image, ``(C, H, W)``."""
    shape: Shape = tuple(datasets["layer/0/shape"].tolist())
    if len(shape) != 3 or min(shape) < 1:
        raise NetxError(f"images of shape {shape}", where="layer/0/shape", expected="must be (C, H, W)")
    return shape


def stored_layers(datasets: Datasets) -> list[tuple[str, Datasets, Datasets]]:
    """Return the type, the datasets and those of ``extra`` of each conv and dense layer."""
    count = len({name.split("/")[1] for name in datasets if name.startswith("layer/")})
    kinds = [decoded(datasets[f"layer/{index}/type"]) for index in range(count)]
    if kinds[0] != "input" or not set(kinds[1:]) <= {"conv", "dense", "flatten"}:
        raise NetxError(f"layers {', '.join(kinds)}", expected="must be an input, then conv, flatten and dense")
    places = [index for index, kind in enumerate(kinds) if kind in ("conv", "dense")]
    return [
        (kinds[index], _inside(datasets, f"layer/{index}/"), _inside(datasets, f"{NATIVE_GROUP}/layer/{synapse}/"))
        for synapse, index in enumerate(places)
    ]


def decoded_synapse(kind: str, stock: Datasets, extra: Datasets, input_shape: Shape) -> Synapse:
    """Return the synapse of a layer of type ``kind``, conv or dense, with its pooling."""
    return _decode_conv(stock, extra) if kind == "conv" else _decode_dense(stock, extra, input_shape)


def _inside(datasets: Datasets, prefix: str) -> Datasets:
    """Return the datasets in a group, by their names in it."""
    return {name.removeprefix(prefix): value for name, value in datasets.items() if name.startswith(prefix)}


def require_size(name: str, shape: Shape) -> None:
    """Raise a `NetxError` unless the output of layer ``name`` has an acceptable size."""
    if (neurons := math.prod(shape)) > MAX_LAYER_SIZE:
        raise NetxError(f"{neurons:,} neurons", where=name, expected=f"must be at most {MAX_LAYER_SIZE:,}")


def require_encoding(datasets: Datasets, expected: Datasets) -> None:
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


def _decode_conv(stock: Datasets, extra: Datasets) -> Synapse:
    pool, dilation = pair(extra["pool"]), pair(extra["dilation"])
    stride, padding = pair(stock["stride"]), pair(stock["padding"], least=0)
    stored = stock["weight"]
    if stored.ndim != 4 or stored.size == 0:
        raise NetxError(f"weights of shape {stored.shape}", expected="must be (C_out, C_in / groups, K_h, K_w)")
    groups = integer(stock["groups"])
    if groups < 1 or stored.shape[0] % groups:
        raise NetxError(f"{groups} groups of {stored.shape[0]} output channels", expected="must divide them")
    weight = stored
    if pool != (1, 1):
        taps = [pool[axis] * dilation[axis] for axis in (0, 1)]
        weight = stored[:, :, :: taps[0], :: taps[1]]
        kernel = tuple(pool[axis] * (dilation[axis] * (weight.shape[axis + 2] - 1) + 1) for axis in (0, 1))
        if kernel != stored.shape[2:]:
            raise NetxError(f"weights of shape {stored.shape} after {pool} pooling", hint=EXPORT_AGAIN)
        stride, padding = (
            (stride[0] // pool[0], stride[1] // pool[1]),
            (padding[0] // pool[0], padding[1] // pool[1]),
        )
        if min(stride) < 1:
            raise NetxError(f"a stride smaller than its pooling {pool}", hint=EXPORT_AGAIN)
    return Conv(
        weight=integers(weight),
        bias=_decode_bias(stock),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        pool=pool,
    )


def _decode_dense(stock: Datasets, extra: Datasets, input_shape: Shape) -> Synapse:
    pool, stored = pair(extra["pool"]), stock["weight"]
    if stored.ndim != 2 or stored.size == 0:
        raise NetxError(f"weights of shape {stored.shape}", expected="must be (N_out, N_in)")
    weight = stored
    if pool != (1, 1):
        _, height, width = input_shape
        full = stored.reshape(-1, *input_shape)[:, :, : height // pool[0] * pool[0], : width // pool[1] * pool[1]]
        weight = full[:, :, :: pool[0], :: pool[1]].reshape(stored.shape[0], -1)
    return Dense(weight=integers(weight), bias=_decode_bias(stock), pool=pool)


def _decode_bias(stock: Datasets) -> Array | None:
    return integers(stock["bias"]).transpose() if "bias" in stock else None


def relay_datasets(group: str, relay_of: Array | None) -> Iterator[tuple[str, Array]]:
    """Yield the dataset of the relays of a layer, if it has any."""
    if relay_count(relay_of):
        assert relay_of is not None
        yield f"{group}/relay_of", relay_of.astype(np.int32)


def decoded_relays(extra: Datasets) -> Array | None:
    """Return what `relay_datasets` wrote."""
    if "relay_of" not in extra:
        return None
    found = integers(extra["relay_of"])
    if found.ndim != 1 or found.min(initial=0) < -1:
        raise NetxError(brief(found), where="relay_of", expected="must be a channel index or -1 for each channel")
    return found.astype(np.int64)
