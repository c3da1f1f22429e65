"""QuantizedNetwork <-> the datasets of a netx file (``.net``).

What lava-dl's ``lava.lib.dl.netx.hdf5.Network`` reads stands where it looks for it::

    /layer/0        type=input, shape (C, H, W)
    /layer/i        type=conv   shape, weight (O, I/groups, kH, kW), bias?, stride, padding, dilation, groups, neuron/
    /layer/i        type=flatten
    /layer/i        type=dense  shape, weight (N_out, N_in), bias?, neuron/?
    .../neuron      type=CUBA, iDecay=4096, vDecay=0, vThMant = threshold - 1, per channel or one number

netx has no pooling: a layer behind a pooling is written as the strided convolution (or the larger dense matrix) that
gives the same integers. What netx cannot say stands in a group of its own, which lava-dl never looks at::

    /loihi_convert              format, timesteps, max_timesteps, pixel_bits, reset, provenance (JSON);
                                poisson_seed, where pixels enter as Poisson spikes;
                                target, where it is not lava;
                                thresholds, where each layer has only one
    /loihi_convert/layer/k      name, scale, pool, dilation, initial_potential   (k counts synapses from 0)
    .../balanced                threshold, amplitude, initial_potential          the real numbers before rounding
    .../correction              what calibration added to the CNN's bias         the same, if there is one

The network that was read is encoded again: a file that says anything else than that is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np

from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.chip import limits, rules
from loihi_convert.errors import NetxError
from loihi_convert.files import refuse_to_overwrite, write_atomically
from loihi_convert.ir.network import IntegrateAndFire, Reset
from loihi_convert.ir.quantized import (
    Granularity,
    IntegerNeuron,
    QuantizedLayer,
    QuantizedNetwork,
    Target,
    largest_pixel,
)
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.netx.hdf5 import (
    MAX_LAYER_SIZE,
    OURS,
    Datasets,
    errors_that_name,
    file_content,
    read_content,
    read_datasets,
)

FORMAT: Final = 1
_BALANCED: Final = ("threshold", "amplitude", "initial_potential")


def write(network: QuantizedNetwork, path: Path, *, overwrite: bool = False) -> None:
    """Write ``network`` as a netx file; afterwards ``path`` is complete, or what it was before.

    Raises
    ------
    InputError
        If ``path`` exists and ``overwrite`` is off, or cannot be written.
    """
    refuse_to_overwrite(path, overwrite)
    write_atomically(path, file_content(dict(encode(network))))


def read(path: Path) -> QuantizedNetwork:
    """Return the network in the netx file at ``path``, checked against its digests and the exactness rules.

    Raises
    ------
    NetxError
        If the file is missing, damaged, was not written by this package, or holds numbers that Loihi cannot.
    """
    return read_native(path, read_content(path))


def read_native(path: Path, content: bytes) -> QuantizedNetwork:
    """Return the network in the ``content`` of the netx file at ``path``, as `read` does."""
    with errors_that_name(path, advice="; export it again"):
        datasets = read_datasets(content)
        network = _decode(datasets)
        _require_encoding(datasets, network)
    return network


def stock_netx_notes(network: QuantizedNetwork) -> tuple[str, ...]:
    """What unmodified lava-dl makes of the written file that differs from ``network``, one sentence each."""
    notes = []
    if network.reset == "soft":
        notes.append(
            "stock lava-dl runs this file with hard-reset LIF neurons that start at 0; soft reset needs `run`."
        )
    elif several := [layer.name for layer in network.spiking_layers if rules.a_layer_has_one_threshold(layer)]:
        notes.append(
            f"{', '.join(several)}: one threshold per channel, which stock lava-dl takes on the CPU only; for hardware "
            "export with --thresholds scalar."
        )
    if network.poisson_seed is not None:
        notes.append("stock lava-dl must be fed pixels as spikes, each with probability pixel / 255 in each step.")
    for layer in network.layers:
        if isinstance(layer.synapse, Dense) and not (layer.weight.min() < 0 < layer.weight.max()):
            notes.append(f"{layer.name}: stock lava-dl needs a positive and a negative weight in a dense layer.")
        if layer.bias is not None and np.abs(layer.bias).max(initial=0) > limits.LIF_BIAS_LIMIT:
            notes.append(f"{layer.name}: a bias beyond 16 bits, which stock lava-dl wraps silently.")
    return tuple(notes)


def _require_encoding(datasets: Datasets, network: QuantizedNetwork) -> None:
    """Raise unless ``datasets`` are what `write` writes for ``network``: what stock netx reads and we do not, too."""
    expected = dict(encode(network))
    for name in sorted(datasets.keys() | expected.keys()):
        if name not in datasets:
            raise NetxError(f"{name}: is missing; export the file again.")
        if name not in expected:
            raise NetxError(f"{name}: has no place in such a network; export the file again.")
        found, wanted = datasets[name], expected[name]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape) or found.tobytes() != wanted.tobytes():
            raise NetxError(
                f"{name}: {_brief(found)} contradicts the rest of the file, which wants {_brief(wanted)}; export it "
                "again."
            )


def _brief(value: Array) -> str:
    return f"{value.dtype} {value.shape}" if value.size > 4 else f"{value.dtype} {value.tolist()}"


def encode(network: QuantizedNetwork) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of every dataset of a file that holds ``network``."""
    yield from _stock_datasets(network)
    yield f"{OURS}/format", np.array(FORMAT, np.int32)
    yield f"{OURS}/timesteps", np.array(network.timesteps, np.int32)
    yield f"{OURS}/proven_timesteps", np.array(network.max_timesteps, np.int64)
    yield f"{OURS}/pixel_bits", np.array(network.pixel_bits, np.int32)
    yield f"{OURS}/reset", _bytes(network.reset)
    if network.poisson_seed is not None:
        yield f"{OURS}/poisson_seed", np.array(network.poisson_seed, np.int64)
    if network.target != "lava":
        yield f"{OURS}/target", _bytes(network.target)
    if network.thresholds != "channel":
        yield f"{OURS}/thresholds", _bytes(network.thresholds)
    yield f"{OURS}/provenance", _bytes(json.dumps(dict(network.provenance), sort_keys=True))
    for index, layer in enumerate(network.layers):
        group = f"{OURS}/layer/{index}"
        yield f"{group}/name", _bytes(layer.name)
        yield f"{group}/scale", layer.scale.astype(np.float64)
        yield f"{group}/pool", np.array(layer.synapse.pool, np.int32)
        if isinstance(layer.synapse, Conv):
            yield f"{group}/dilation", np.array(layer.synapse.dilation, np.int32)
        if layer.neuron is not None:
            yield f"{group}/initial_potential", layer.neuron.initial_potential.astype(np.int32)
        if layer.balanced is not None:
            for name in _BALANCED:
                yield f"{group}/balanced/{name}", getattr(layer.balanced, name).astype(np.float64)
        if layer.correction is not None:
            yield f"{group}/correction", layer.correction.astype(np.float64)


def _stock_datasets(network: QuantizedNetwork) -> Iterator[tuple[str, Array]]:
    """What lava-dl reads."""
    yield "layer/0/type", _bytes("input")
    yield "layer/0/shape", np.array(network.input_shape, np.int32)
    input_shape, index = network.input_shape, 1
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        synapse = layer.synapse.without_pooling(input_shape)
        if isinstance(synapse, Dense) and len(input_shape) == 3:
            yield f"layer/{index}/type", _bytes("flatten")
            index += 1
        group = f"layer/{index}"
        yield f"{group}/type", _bytes("conv" if isinstance(synapse, Conv) else "dense")
        yield f"{group}/shape", np.array(shape, np.int32)
        if isinstance(synapse, Conv):
            for name in ("stride", "padding", "dilation"):
                yield f"{group}/{name}", np.array(getattr(synapse, name), np.int32)
            yield f"{group}/groups", np.array(synapse.groups, np.int32)
        yield f"{group}/weight", synapse.weight.astype(np.int8)
        if synapse.bias is not None:
            # Lava's neuron axes are W, H, C.
            yield f"{group}/bias", synapse.bias.transpose().astype(np.int32)
        yield from _neuron_datasets(f"{group}/neuron", layer, network.thresholds)
        input_shape, index = shape, index + 1


def _neuron_datasets(group: str, layer: QuantizedLayer, thresholds: Granularity) -> Iterator[tuple[str, Array]]:
    if layer.neuron is None and layer.bias is None:
        # netx gives a dense layer without neuron group its non-firing integrator, the natural readout.
        return
    # That integrator adds a bias only once; with one, the readout is an IF neuron that can never fire.
    threshold = np.array(limits.NEVER_FIRES) if layer.neuron is None else layer.neuron.threshold
    if thresholds == "scalar":
        threshold = threshold.max()
    yield f"{group}/type", _bytes("CUBA")
    yield f"{group}/iDecay", np.array(limits.I_DECAY, np.int32)
    yield f"{group}/vDecay", np.array(limits.V_DECAY, np.int32)
    yield f"{group}/vThMant", (threshold - 1).astype(np.int32)


def _decode(datasets: Datasets) -> QuantizedNetwork:
    """The network that ``datasets`` hold; `_require_encoding` then sees to what is not looked at here."""
    if (version := _integer(datasets[f"{OURS}/format"])) != FORMAT:
        raise NetxError(f"format {version} of our datasets; this version reads {FORMAT}. Export it again.")
    count = len({name.split("/")[1] for name in datasets if name.startswith("layer/")})
    kinds = [_text(datasets[f"layer/{index}/type"]) for index in range(count)]
    if kinds[0] != "input" or not set(kinds[1:]) <= {"conv", "dense", "flatten"}:
        raise NetxError(f"layers {', '.join(kinds)}; allowed are input, then conv, flatten and dense.")
    pixel_bits = _integer(datasets[f"{OURS}/pixel_bits"])
    if not 1 <= pixel_bits <= limits.MAX_PIXEL_BITS:
        raise NetxError(f"pixels of {pixel_bits} bits; allowed are 1..{limits.MAX_PIXEL_BITS}.")
    seed = datasets.get(f"{OURS}/poisson_seed")
    poisson_seed = None if seed is None else _integer(seed)
    input_shape: Shape = tuple(datasets["layer/0/shape"].tolist())
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise NetxError(f"images of shape {input_shape}; allowed is (C, H, W).")
    network_input = input_shape
    layers: list[QuantizedLayer] = []
    for index, kind in enumerate(kinds):
        if kind not in ("conv", "dense"):
            continue
        stock = _inside(datasets, f"layer/{index}/")
        extra = _inside(datasets, f"{OURS}/layer/{len(layers)}/")
        layer = QuantizedLayer(
            name=_text(extra["name"]),
            synapse=(_decode_conv if kind == "conv" else _decode_dense)(stock, extra, input_shape),
            neuron=_decode_neuron(stock, extra),
            scale=extra["scale"],
            largest_input=1 if layers else largest_pixel(poisson_seed, pixel_bits),
            balanced=_decode_balanced(extra),
            correction=extra.get("correction"),
        )
        input_shape = layer.synapse.output_shape(input_shape)
        _require_sound(layer, input_shape)
        layers.append(layer)
    reset = _text(datasets[f"{OURS}/reset"])
    if reset not in get_args(Reset):
        raise NetxError(f"reset '{reset}'; allowed are {' and '.join(get_args(Reset))}.")
    target = _text(datasets[f"{OURS}/target"]) if f"{OURS}/target" in datasets else "lava"
    if target not in get_args(Target):
        raise NetxError(f"target '{target}'; allowed are {' and '.join(get_args(Target))}.")
    thresholds = _text(datasets[f"{OURS}/thresholds"]) if f"{OURS}/thresholds" in datasets else "channel"
    if thresholds not in get_args(Granularity):
        raise NetxError(f"thresholds '{thresholds}'; allowed are {' and '.join(get_args(Granularity))}.")
    provenance = json.loads(_text(datasets[f"{OURS}/provenance"]))
    if not isinstance(provenance, dict) or not isinstance(provenance.get("model", {}), dict):
        raise NetxError("its provenance is not a JSON object of objects; export it again.")
    _require_model(provenance.get("model", {}))
    return QuantizedNetwork(
        input_shape=network_input,
        layers=tuple(layers),
        timesteps=_integer(datasets[f"{OURS}/timesteps"]),
        max_timesteps=_integer(datasets[f"{OURS}/proven_timesteps"]),
        pixel_bits=pixel_bits,
        reset=cast(Reset, reset),
        provenance=provenance,
        poisson_seed=poisson_seed,
        target=cast(Target, target),
        thresholds=cast(Granularity, thresholds),
    )


def _require_model(model: Mapping[str, object]) -> None:
    """Raise unless what a provenance says of the CNN, and `run` relies on, is of the types that `export` writes."""
    for name in ("file", "sha256", "architecture", "arch", "data"):
        if not isinstance(found := model.get(name), str | None):
            raise NetxError(f"its provenance says that {name} of the CNN is {found!r}, no text; export it again.")
    classes = model.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        raise NetxError(
            f"its provenance says that the classes of the CNN are {classes!r}, no list of texts; export it again."
        )


def _inside(datasets: Datasets, prefix: str) -> Datasets:
    return {name.removeprefix(prefix): value for name, value in datasets.items() if name.startswith(prefix)}


def _require_sound(layer: QuantizedLayer, shape: Shape) -> None:
    """Raise unless the numbers beside the integers make sense, one for each channel, and the layer is no bomb."""
    if (neurons := math.prod(shape)) > MAX_LAYER_SIZE:
        raise NetxError(f"{layer.name}: {neurons:,} neurons; allowed are {MAX_LAYER_SIZE:,}.")
    channels = (layer.synapse.channels,)
    numbers = [("scale", layer.scale, bool((np.isfinite(layer.scale) & (layer.scale > 0)).all()))]
    if layer.neuron is not None:
        numbers += [("threshold", layer.neuron.threshold, True), ("V0", layer.neuron.initial_potential, True)]
    if layer.balanced is not None:
        threshold, amplitude, initial = (getattr(layer.balanced, name) for name in _BALANCED)
        numbers += [
            ("balanced threshold", threshold, bool((threshold > 0).all())),
            ("balanced amplitude", amplitude, bool((np.isfinite(amplitude) & (amplitude >= 0)).all())),
            ("balanced V0", initial, bool(((initial >= 0) & (initial < threshold)).all())),
        ]
    if layer.correction is not None:
        numbers.append(("correction", layer.correction, bool(np.isfinite(layer.correction).all())))
    for name, array, is_sound in numbers:
        if array.shape != channels or not is_sound:
            raise NetxError(f"{layer.name}: its {name} is not one sound number per channel; export the file again.")


def _decode_conv(stock: Datasets, extra: Datasets, input_shape: Shape) -> Synapse:
    pool, dilation = _pair(extra["pool"]), _pair(extra["dilation"])
    stride, padding = _pair(stock["stride"]), _pair(stock["padding"], least=0)
    stored = stock["weight"]
    if stored.ndim != 4 or stored.size == 0:
        raise NetxError(f"weights of shape {stored.shape}; a convolution has (C_out, C_in / groups, K_h, K_w).")
    groups = _integer(stock["groups"])
    if groups < 1 or stored.shape[0] % groups:
        raise NetxError(f"{groups} groups of {stored.shape[0]} channels; allowed are divisors.")
    weight = stored
    if pool != (1, 1):
        taps = [pool[axis] * dilation[axis] for axis in (0, 1)]
        weight = stored[:, :, :: taps[0], :: taps[1]]
        kernel = tuple(pool[axis] * (dilation[axis] * (weight.shape[axis + 2] - 1) + 1) for axis in (0, 1))
        if kernel != stored.shape[2:]:
            raise NetxError(f"{stored.shape}: weights that no {pool} pooling gives; export the file again.")
        stride, padding = (
            (stride[0] // pool[0], stride[1] // pool[1]),
            (padding[0] // pool[0], padding[1] // pool[1]),
        )
        if min(stride) < 1:
            raise NetxError(f"a stride less than its pooling {pool}; export the file again.")
    return Conv(
        weight=_integers(weight),
        bias=_decode_bias(stock),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        pool=pool,
    )


def _decode_dense(stock: Datasets, extra: Datasets, input_shape: Shape) -> Synapse:
    pool, stored = _pair(extra["pool"]), stock["weight"]
    if stored.ndim != 2 or stored.size == 0:
        raise NetxError(f"weights of shape {stored.shape}; a dense layer has (N_out, N_in).")
    weight = stored
    if pool != (1, 1):
        _, height, width = input_shape
        full = stored.reshape(-1, *input_shape)[:, :, : height // pool[0] * pool[0], : width // pool[1] * pool[1]]
        weight = full[:, :, :: pool[0], :: pool[1]].reshape(stored.shape[0], -1)
    return Dense(weight=_integers(weight), bias=_decode_bias(stock), pool=pool)


def _decode_bias(stock: Datasets) -> Array | None:
    return _integers(stock["bias"]).transpose() if "bias" in stock else None


def _decode_neuron(stock: Datasets, extra: Datasets) -> IntegerNeuron | None:
    if "initial_potential" not in extra:
        return None
    threshold, initial = _integers(stock["neuron/vThMant"]) + 1, extra["initial_potential"]
    # One number is that of all channels.
    return IntegerNeuron(np.full(initial.shape, threshold) if threshold.ndim == 0 else threshold, initial)


def _decode_balanced(extra: Datasets) -> IntegrateAndFire | None:
    if not any(name.startswith("balanced/") for name in extra):
        return None
    return IntegrateAndFire(*(extra[f"balanced/{name}"] for name in _BALANCED))


def _pair(value: Array, least: int = 1) -> Pair:
    if value.shape != (2,) or value.dtype.kind != "i" or value.min() < least:
        raise NetxError(f"{_brief(value)} where two whole numbers from {least} belong; export the file again.")
    return int(value[0]), int(value[1])


def _integers(value: Array) -> Array:
    if value.dtype.kind != "i":
        raise NetxError(f"{_brief(value)} where whole numbers belong; export the file again.")
    return value.astype(np.int32)


def _integer(value: Array) -> int:
    if value.shape != () or value.dtype.kind != "i":
        raise NetxError(f"{_brief(value)} where one whole number belongs; export the file again.")
    return int(value)


def _bytes(text: str) -> Array:
    return np.array(text.encode())


def _text(value: Array) -> str:
    if value.shape != () or value.dtype.kind != "S":
        raise NetxError(f"{_brief(value)} where text belongs; export the file again.")
    return bytes(value.item()).decode()
