"""QuantizedNetwork <-> lava-dl netx HDF5 (``.net``); the only file that imports h5py.

What lava-dl's ``lava.lib.dl.netx.hdf5.Network`` reads stands where it looks for it::

    /layer/0        type=input, shape (C, H, W)
    /layer/i        type=conv   shape, weight (O, I/groups, kH, kW), bias?, stride, padding, dilation, groups, neuron/
    /layer/i        type=flatten
    /layer/i        type=dense  shape, weight (N_out, N_in), bias?, neuron/?
    .../neuron      type=CUBA, iDecay=4096, vDecay=0, vThMant = threshold - 1 per channel

netx has no pooling: a layer behind a pooling is written as the strided convolution (or the larger dense matrix) that
gives the same integers. What netx cannot say stands in a group of its own, which lava-dl never looks at::

    /loihi_convert              format, timesteps, proven_timesteps, pixel_bits, reset, provenance (JSON);
                                poisson_seed, where pixels enter as Poisson spikes; target, unless it is lava
    /loihi_convert/layer/k      name, scale, pool, dilation, initial_potential   (k counts synapses from 0)
    .../balanced                threshold, amplitude, initial_potential          the real numbers before rounding
    .../correction              what calibration added to the CNN's bias         the same, if there is one

HDF5 itself loads most damage without a word, and some damage ends the process with SIGSEGV. So a file begins with a
*seal*, in the 512 bytes that HDF5 leaves to its user: the SHA-256 of everything behind it, checked before HDF5 sees a
byte. The root attribute ``content_sha256`` covers every dataset, for files that another tool wrote anew without seal.
At last the network that was read is encoded again: a file that says anything else than that is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast, get_args

import h5py
import numpy as np

from loihi_convert import loihi
from loihi_convert.errors import LoihiConvertError, NetxError
from loihi_convert.files import refuse_to_overwrite, write_atomically
from loihi_convert.network import (
    IntegerNeuron,
    IntegrateAndFire,
    QuantizedLayer,
    QuantizedNetwork,
    Reset,
    Target,
    largest_pixel,
)
from loihi_convert.synapse import Array, Conv, Dense, Pair, Shape, Synapse

FORMAT: Final = 1
SUFFIX: Final = ".net"
_OURS: Final = "loihi_convert"
_DIGEST: Final = "content_sha256"
_BALANCED: Final = ("threshold", "amplitude", "initial_potential")

_SEAL: Final = "loihi-convert netx; sha256 of all bytes from 512: "
_SEAL_LENGTH: Final = 512
_HDF5: Final = b"\x89HDF\r\n\x1a\n"

_LARGEST_FILE: Final = 2**31
_LARGEST_RATIO: Final = 256
"""Bytes of the datasets for each byte of the file; the repeated weights of a pooling compress 10 to 50 times."""
_DEEPEST: Final = f"{_OURS}/layer/0/balanced/threshold".count("/")
_LONGEST_REASON: Final = 400
_LARGEST_LAYER: Final = 2**26
"""Neurons; a Loihi 2 chip has 2^20."""

Datasets = Mapping[str, Array]
"""Every dataset of a file by its full name, such as ``layer/1/weight``; text as bytes."""


def write(network: QuantizedNetwork, path: Path, *, overwrite: bool = False) -> None:
    """Write ``network`` as a netx file; afterwards ``path`` is complete, or what it was before.

    Raises
    ------
    InputError
        If ``path`` exists and ``overwrite`` is off, or cannot be written.
    """
    refuse_to_overwrite(path, overwrite)
    datasets = dict(_encode(network))
    # Built in memory: h5py on a full disk dies with SIGSEGV, and a killed in-place write leaves an unusable file.
    with h5py.File("in-memory", "w", driver="core", backing_store=False, userblock_size=_SEAL_LENGTH) as file:
        for name, value in datasets.items():
            # HDF5 compresses and checks only what has values to be cut into chunks.
            filters = {"compression": "gzip", "shuffle": True, "fletcher32": True} if value.shape and value.size else {}
            file.create_dataset(name, data=value, **filters)
        file.attrs[_DIGEST] = _content_sha256(datasets)
        file.flush()
        image = file.id.get_file_image()
    write_atomically(path, _seal(image) + image)


def read(path: Path) -> QuantizedNetwork:
    """Return the network in the netx file at ``path``, checked against its digests and the exactness rules.

    Raises
    ------
    NetxError
        If the file is missing, damaged, was not written by this package, or holds numbers that Loihi cannot.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise NetxError(f"{path}: is larger than 2 GiB; no netx file of ours is.")
        # Read whole first: h5py keeps a file open for as long as a reader lives.
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NetxError(f"{path}: no such file; `loihi-convert export model.pt` writes one.") from error
    except OSError as error:
        raise NetxError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if not content.startswith(_HDF5):
        if not content.startswith(_SEAL[:8].encode()):
            raise NetxError(f"{path}: cannot be read as a netx HDF5 file, it begins as no such file does.")
        if content[:_SEAL_LENGTH] != _seal(content[_SEAL_LENGTH:]):
            raise NetxError(f"{path}: is damaged, it does not match the SHA-256 it begins with; export it again.")
    try:
        datasets = _read_datasets(content)
        network = _decode(datasets)
        _require_encoding(datasets, network)
    except LoihiConvertError as error:
        raise NetxError(f"{path}: {_shortened(str(error))}") from error
    # A forged file can make HDF5 and NumPy raise nearly anything; none of it is our bug.
    except Exception as error:
        reason = _shortened(str(error) or type(error).__name__)
        raise NetxError(f"{path}: cannot be read as a netx HDF5 file ({reason}); export it again.") from error
    return network


def stock_netx_notes(network: QuantizedNetwork) -> tuple[str, ...]:
    """What unmodified lava-dl makes of the written file that differs from ``network``, one sentence each."""
    notes = []
    if network.reset == "soft":
        notes.append(
            "stock lava-dl runs this file with hard-reset LIF neurons that start at 0; soft reset needs `run`."
        )
    if network.poisson_seed is not None:
        notes.append("stock lava-dl must be fed pixels as spikes, each with probability pixel / 255 in each step.")
    for layer in network.layers:
        if isinstance(layer.synapse, Dense) and not (layer.weight.min() < 0 < layer.weight.max()):
            notes.append(f"{layer.name}: stock lava-dl needs a positive and a negative weight in a dense layer.")
        if layer.bias is not None and np.abs(layer.bias).max(initial=0) > loihi.LIF_BIAS_LIMIT:
            notes.append(f"{layer.name}: a bias beyond 16 bits, which stock lava-dl wraps silently.")
    return tuple(notes)


def _seal(image: bytes) -> bytes:
    """The user block of an HDF5 image: a line for people and for `read`, filled up with zeros."""
    return f"{_SEAL}{hashlib.sha256(image).hexdigest()}\n".encode().ljust(_SEAL_LENGTH, b"\0")


def _content_sha256(datasets: Datasets) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(datasets.items()):
        digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _read_datasets(content: bytes) -> Datasets:
    """Every dataset of an HDF5 image of ours; nothing outside the image is opened, and no link is followed."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if name.count("/") > _DEEPEST:
            raise NetxError(f"{name}: lies deeper than anything in a netx file of ours; export it again.")
        if isinstance(item, h5py.Group):
            _require_plain_group(item)
        elif isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external and item.dtype.kind in "iufS":
            found[name] = item
        else:
            raise NetxError(f"{name}: is no dataset of numbers or text in this file; export it again.")

    with h5py.File(io.BytesIO(content), "r") as file:
        _require_plain_group(file)
        if _OURS not in file or _DIGEST not in file.attrs:
            raise NetxError(
                f"holds no group '{_OURS}' with thresholds and scales; only files written by `loihi-convert export` "
                "can be run."
            )
        file.visititems(visit)
        size = sum(item.dtype.itemsize * item.size for item in found.values())
        if size > _LARGEST_RATIO * len(content):
            raise NetxError(f"claims to hold {size:,} bytes in {len(content):,}, which no compression gives.")
        datasets = {name: np.asarray(item[()]) for name, item in found.items()}
        if file.attrs[_DIGEST] != _content_sha256(datasets):
            raise NetxError("is damaged, its content does not match its SHA-256; export it again.")
    return datasets


def _require_plain_group(group: h5py.Group) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise NetxError(f"{group.name}: {name} is a link to another place; export the file again.")
    if len(group) == 0:
        raise NetxError(f"{group.name}: is an empty group; export the file again.")


def _require_encoding(datasets: Datasets, network: QuantizedNetwork) -> None:
    """Raise unless ``datasets`` are what `write` writes for ``network``: what stock netx reads and we do not, too."""
    expected = dict(_encode(network))
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


def _shortened(reason: str) -> str:
    """One line of a length that can be read, whatever a forged file made part of it."""
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."


def _brief(value: Array) -> str:
    return f"{value.dtype} {value.shape}" if value.size > 4 else f"{value.dtype} {value.tolist()}"


def _encode(network: QuantizedNetwork) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of every dataset of a file that holds ``network``."""
    yield from _stock_datasets(network)
    yield f"{_OURS}/format", np.array(FORMAT, np.int32)
    yield f"{_OURS}/timesteps", np.array(network.timesteps, np.int32)
    yield f"{_OURS}/proven_timesteps", np.array(network.proven_timesteps, np.int64)
    yield f"{_OURS}/pixel_bits", np.array(network.pixel_bits, np.int32)
    yield f"{_OURS}/reset", _bytes(network.reset)
    if network.poisson_seed is not None:
        yield f"{_OURS}/poisson_seed", np.array(network.poisson_seed, np.int64)
    if network.target != "lava":
        yield f"{_OURS}/target", _bytes(network.target)
    yield f"{_OURS}/provenance", _bytes(json.dumps(dict(network.provenance), sort_keys=True))
    for index, layer in enumerate(network.layers):
        group = f"{_OURS}/layer/{index}"
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
        yield from _neuron_datasets(f"{group}/neuron", layer)
        input_shape, index = shape, index + 1


def _neuron_datasets(group: str, layer: QuantizedLayer) -> Iterator[tuple[str, Array]]:
    if layer.neuron is None and layer.bias is None:
        # netx gives a dense layer without neuron group its non-firing integrator, the natural readout.
        return
    # That integrator adds a bias only once; with one, the readout is an IF neuron that can never fire.
    threshold = np.array(loihi.NEVER_FIRES) if layer.neuron is None else layer.neuron.threshold
    yield f"{group}/type", _bytes("CUBA")
    yield f"{group}/iDecay", np.array(loihi.I_DECAY, np.int32)
    yield f"{group}/vDecay", np.array(loihi.V_DECAY, np.int32)
    yield f"{group}/vThMant", (threshold - 1).astype(np.int32)


def _decode(datasets: Datasets) -> QuantizedNetwork:
    """The network that ``datasets`` hold; `_require_encoding` then sees to what is not looked at here."""
    if (version := _integer(datasets[f"{_OURS}/format"])) != FORMAT:
        raise NetxError(f"format {version} of our datasets; this version reads {FORMAT}. Export it again.")
    count = len({name.split("/")[1] for name in datasets if name.startswith("layer/")})
    kinds = [_text(datasets[f"layer/{index}/type"]) for index in range(count)]
    if kinds[0] != "input" or not set(kinds[1:]) <= {"conv", "dense", "flatten"}:
        raise NetxError(f"layers {', '.join(kinds)}; allowed are input, then conv, flatten and dense.")
    pixel_bits = _integer(datasets[f"{_OURS}/pixel_bits"])
    if not 1 <= pixel_bits <= loihi.MAX_PIXEL_BITS:
        raise NetxError(f"pixels of {pixel_bits} bits; allowed are 1..{loihi.MAX_PIXEL_BITS}.")
    seed = datasets.get(f"{_OURS}/poisson_seed")
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
        extra = _inside(datasets, f"{_OURS}/layer/{len(layers)}/")
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
    reset = _text(datasets[f"{_OURS}/reset"])
    if reset not in get_args(Reset):
        raise NetxError(f"reset '{reset}'; allowed are {' and '.join(get_args(Reset))}.")
    target = _text(datasets[f"{_OURS}/target"]) if f"{_OURS}/target" in datasets else "lava"
    if target not in get_args(Target):
        raise NetxError(f"target '{target}'; allowed are {' and '.join(get_args(Target))}.")
    provenance = json.loads(_text(datasets[f"{_OURS}/provenance"]))
    if not isinstance(provenance, dict) or not isinstance(provenance.get("model", {}), dict):
        raise NetxError("its provenance is not a JSON object of objects; export it again.")
    return QuantizedNetwork(
        input_shape=network_input,
        layers=tuple(layers),
        timesteps=_integer(datasets[f"{_OURS}/timesteps"]),
        proven_timesteps=_integer(datasets[f"{_OURS}/proven_timesteps"]),
        pixel_bits=pixel_bits,
        reset=cast(Reset, reset),
        provenance=provenance,
        poisson_seed=poisson_seed,
        target=cast(Target, target),
    )


def _inside(datasets: Datasets, prefix: str) -> Datasets:
    return {name.removeprefix(prefix): value for name, value in datasets.items() if name.startswith(prefix)}


def _require_sound(layer: QuantizedLayer, shape: Shape) -> None:
    """Raise unless the numbers beside the integers make sense, one for each channel, and the layer is no bomb."""
    if (neurons := math.prod(shape)) > _LARGEST_LAYER:
        raise NetxError(f"{layer.name}: {neurons:,} neurons; allowed are {_LARGEST_LAYER:,}.")
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
    return IntegerNeuron(_integers(stock["neuron/vThMant"]) + 1, extra["initial_potential"])


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
