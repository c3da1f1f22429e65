"""QuantizedNetwork <-> lava-dl netx HDF5 (``.net``); the only file that imports h5py.

What lava-dl's ``lava.lib.dl.netx.hdf5.Network`` reads stands where it looks for it::

    /layer/0        type=input, shape (C, H, W)
    /layer/i        type=conv   shape, weight (O, I/groups, kH, kW), bias?, stride, padding, dilation, groups, neuron/
    /layer/i        type=flatten
    /layer/i        type=dense  shape, weight (N_out, N_in), bias?, neuron/?
    .../neuron      type=CUBA, iDecay=4096, vDecay=0, vThMant = threshold - 1 per channel

netx has no pooling: a layer behind a pooling is written as the strided convolution (or the larger dense matrix) that
gives the same integers. What netx cannot say stands in a group of its own, which lava-dl never looks at::

    /loihi_convert              format, timesteps, proven_timesteps, pixel_bits, reset, provenance (JSON)
    /loihi_convert/layer/k      name, scale, pool, dilation, initial_potential   (k counts synapses from 0)
    .../balanced                threshold, amplitude, initial_potential          the real numbers before rounding

The root attribute ``content_sha256`` covers every dataset: HDF5 itself loads most damage without a word.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Final, cast, get_args

import h5py
import numpy as np

from loihi_convert import loihi
from loihi_convert.errors import LoihiConvertError, NetxError
from loihi_convert.files import refuse_to_overwrite, write_atomically
from loihi_convert.network import IntegerNeuron, IntegrateAndFire, QuantizedLayer, QuantizedNetwork, Reset
from loihi_convert.synapse import Array, Conv, Dense, Shape, Synapse

FORMAT: Final = 1
SUFFIX: Final = ".net"
_OURS: Final = "loihi_convert"
_DIGEST: Final = "content_sha256"
_LARGEST_FILE: Final = 2**31
_BALANCED: Final = ("threshold", "amplitude", "initial_potential")


def write(network: QuantizedNetwork, path: Path, *, overwrite: bool = False) -> None:
    """Write ``network`` as a netx file; afterwards ``path`` is complete, or what it was before.

    Raises
    ------
    InputError
        If ``path`` exists and ``overwrite`` is off, or cannot be written.
    """
    refuse_to_overwrite(path, overwrite)
    # Built in memory: h5py on a full disk dies with SIGSEGV, and a killed in-place write leaves an unusable file.
    with h5py.File("in-memory", "w", driver="core", backing_store=False) as file:
        _write_layers(file, network)
        _write_ours(file.create_group(_OURS), network)
        file.attrs[_DIGEST] = _content_sha256(file)
        file.flush()
        image = file.id.get_file_image()
    write_atomically(path, image)


def read(path: Path) -> QuantizedNetwork:
    """Return the network in the netx file at ``path``, checked against its digest and the exactness rules.

    Raises
    ------
    NetxError
        If the file is missing, damaged, was not written by this package, or holds numbers that Loihi cannot.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise NetxError(f"{path}: is larger than 2 GiB; no netx file of ours is.")
        # Read whole first: h5py keeps a file open for as long as a reader lives.
        with h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
            if _OURS not in file or _DIGEST not in file.attrs:
                raise NetxError(
                    f"{path}: holds no group '{_OURS}' with thresholds and scales; only files written by "
                    "`loihi-convert export` can be run."
                )
            if file.attrs[_DIGEST] != _content_sha256(file):
                raise NetxError(f"{path}: is damaged, its content does not match its SHA-256; export it again.")
            return _read_network(file, path)
    except LoihiConvertError as error:
        raise error if isinstance(error, NetxError) else NetxError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise NetxError(f"{path}: no such file; `loihi-convert export model.pt` writes one.") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise NetxError(f"{path}: cannot be read as a netx HDF5 file ({error}); export it again.") from error


def stock_netx_notes(network: QuantizedNetwork) -> tuple[str, ...]:
    """What unmodified lava-dl makes of the written file that differs from ``network``, one sentence each."""
    notes = []
    if network.reset == "soft":
        notes.append(
            "stock lava-dl runs this file with hard-reset LIF neurons that start at 0; soft reset needs `run`."
        )
    for layer in network.layers:
        if isinstance(layer.synapse, Dense) and not (layer.weight.min() < 0 < layer.weight.max()):
            notes.append(f"{layer.name}: stock lava-dl needs a positive and a negative weight in a dense layer.")
        if layer.bias is not None and np.abs(layer.bias).max(initial=0) > loihi.LIF_BIAS_LIMIT:
            notes.append(f"{layer.name}: a bias beyond 16 bits, which stock lava-dl wraps silently.")
    return tuple(notes)


def _write_layers(file: h5py.File, network: QuantizedNetwork) -> None:
    layers = file.create_group("layer")

    def new_layer(kind: str, shape: Shape | None = None) -> h5py.Group:
        group = layers.create_group(str(len(layers)))
        _put(group, "type", kind)
        if shape is not None:
            _put(group, "shape", np.array(shape, np.int32))
        return group

    new_layer("input", network.input_shape)
    input_shape = network.input_shape
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        synapse = layer.synapse.without_pooling(input_shape)
        if isinstance(synapse, Conv):
            group = new_layer("conv", shape)
            for name in ("stride", "padding", "dilation"):
                _put(group, name, np.array(getattr(synapse, name), np.int32))
            _put(group, "groups", np.int32(synapse.groups))
        else:
            if len(input_shape) == 3:
                new_layer("flatten")
            group = new_layer("dense", shape)
        _put(group, "weight", synapse.weight.astype(np.int8))
        if synapse.bias is not None:
            # Lava's neuron axes are W, H, C.
            _put(group, "bias", synapse.bias.transpose().astype(np.int32))
        _write_neuron(group, layer)
        input_shape = shape


def _write_neuron(group: h5py.Group, layer: QuantizedLayer) -> None:
    if layer.neuron is None and layer.bias is None:
        # netx gives a dense layer without neuron group its non-firing integrator, the natural readout.
        return
    # That integrator adds a bias only once; with one, the readout is an IF neuron that can never fire.
    threshold = np.array(loihi.NEVER_FIRES) if layer.neuron is None else layer.neuron.threshold
    neuron = group.create_group("neuron")
    _put(neuron, "type", "CUBA")
    _put(neuron, "iDecay", np.int32(loihi.I_DECAY))
    _put(neuron, "vDecay", np.int32(loihi.V_DECAY))
    _put(neuron, "vThMant", (threshold - 1).astype(np.int32))


def _write_ours(group: h5py.Group, network: QuantizedNetwork) -> None:
    _put(group, "format", np.int32(FORMAT))
    _put(group, "timesteps", np.int32(network.timesteps))
    _put(group, "proven_timesteps", np.int64(network.proven_timesteps))
    _put(group, "pixel_bits", np.int32(network.pixel_bits))
    _put(group, "reset", network.reset)
    _put(group, "provenance", json.dumps(dict(network.provenance), sort_keys=True))
    layers = group.create_group("layer")
    for index, layer in enumerate(network.layers):
        ours = layers.create_group(str(index))
        _put(ours, "name", layer.name)
        _put(ours, "scale", layer.scale.astype(np.float64))
        _put(ours, "pool", np.array(layer.synapse.pool, np.int32))
        if isinstance(layer.synapse, Conv):
            _put(ours, "dilation", np.array(layer.synapse.dilation, np.int32))
        if layer.neuron is not None:
            _put(ours, "initial_potential", layer.neuron.initial_potential.astype(np.int32))
        if layer.balanced is not None:
            balanced = ours.create_group("balanced")
            for name in _BALANCED:
                _put(balanced, name, getattr(layer.balanced, name).astype(np.float64))


def _put(group: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, str):
        group.create_dataset(name, data=np.bytes_(value.encode()))
    elif np.ndim(value) == 0 or np.size(value) == 0:
        group.create_dataset(name, data=value)
    else:
        group.create_dataset(name, data=value, compression="gzip", shuffle=True, fletcher32=True)


def _content_sha256(file: h5py.File) -> str:
    digest = hashlib.sha256()
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in sorted(names):
        value = np.asarray(file[name][()])
        digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _read_network(file: h5py.File, path: Path) -> QuantizedNetwork:
    ours = file[_OURS]
    if (version := int(ours["format"][()])) != FORMAT:
        raise NetxError(f"{path}: format {version} of our datasets; this version reads {FORMAT}. Export it again.")
    stock = [file["layer"][str(index)] for index in range(len(file["layer"]))]
    kinds = [_text(group["type"]) for group in stock]
    if kinds[0] != "input" or not set(kinds[1:]) <= {"conv", "dense", "flatten"}:
        raise NetxError(f"{path}: layers {', '.join(kinds)}; allowed are input, then conv, flatten and dense.")
    pixel_bits = int(ours["pixel_bits"][()])
    input_shape: Shape = tuple(int(extent) for extent in stock[0]["shape"][()])
    network_input = input_shape
    layers: list[QuantizedLayer] = []
    synapses = [(group, kind) for group, kind in zip(stock, kinds, strict=True) if kind in ("conv", "dense")]
    for index, (group, kind) in enumerate(synapses):
        extra = ours["layer"][str(index)]
        read_synapse = _read_conv if kind == "conv" else _read_dense
        layer = QuantizedLayer(
            name=_text(extra["name"]),
            synapse=read_synapse(group, extra, input_shape),
            neuron=_read_neuron(group, extra),
            scale=extra["scale"][()],
            largest_input=2**pixel_bits - 1 if index == 0 else 1,
            balanced=_read_balanced(extra),
        )
        input_shape = layer.synapse.output_shape(input_shape)
        layers.append(layer)
    reset = _text(ours["reset"])
    if reset not in get_args(Reset):
        raise NetxError(f"{path}: reset '{reset}'; allowed are {' and '.join(get_args(Reset))}.")
    return QuantizedNetwork(
        input_shape=network_input,
        layers=tuple(layers),
        timesteps=int(ours["timesteps"][()]),
        proven_timesteps=int(ours["proven_timesteps"][()]),
        pixel_bits=pixel_bits,
        reset=cast(Reset, reset),
        provenance=json.loads(_text(ours["provenance"])),
    )


def _read_conv(group: h5py.Group, extra: h5py.Group, input_shape: Shape) -> Synapse:
    pool_h, pool_w = (int(extent) for extent in extra["pool"][()])
    dilation_h, dilation_w = (int(extent) for extent in extra["dilation"][()])
    weight = group["weight"][()].astype(np.int32)
    stride, padding = group["stride"][()], group["padding"][()]
    if (pool_h, pool_w) != (1, 1):
        weight = weight[:, :, :: pool_h * dilation_h, :: pool_w * dilation_w]
        stride, padding = stride // (pool_h, pool_w), padding // (pool_h, pool_w)
    conv = Conv(
        weight=weight,
        bias=_read_bias(group),
        stride=(int(stride[0]), int(stride[1])),
        padding=(int(padding[0]), int(padding[1])),
        dilation=(dilation_h, dilation_w),
        groups=int(group["groups"][()]),
        pool=(pool_h, pool_w),
    )
    _check_pooling(conv, group["weight"][()], input_shape)
    return conv


def _read_dense(group: h5py.Group, extra: h5py.Group, input_shape: Shape) -> Synapse:
    pool_h, pool_w = (int(extent) for extent in extra["pool"][()])
    weight = group["weight"][()].astype(np.int32)
    if (pool_h, pool_w) != (1, 1):
        _, height, width = input_shape
        full = weight.reshape(-1, *input_shape)[:, :, : height // pool_h * pool_h, : width // pool_w * pool_w]
        weight = full[:, :, ::pool_h, ::pool_w].reshape(weight.shape[0], -1)
    dense = Dense(weight=weight, bias=_read_bias(group), pool=(pool_h, pool_w))
    _check_pooling(dense, group["weight"][()], input_shape)
    return dense


def _check_pooling(synapse: Synapse, stored: Array, input_shape: Shape) -> None:
    if not np.array_equal(synapse.without_pooling(input_shape).weight, stored):
        raise NetxError(f"{stored.shape}: weights that no {synapse.pool} pooling gives; export the file again.")


def _read_bias(group: h5py.Group) -> Array | None:
    return group["bias"][()].transpose().astype(np.int32) if "bias" in group else None


def _read_neuron(group: h5py.Group, extra: h5py.Group) -> IntegerNeuron | None:
    if "initial_potential" not in extra:
        return None
    threshold = group["neuron"]["vThMant"][()].astype(np.int32) + 1
    return IntegerNeuron(threshold=threshold, initial_potential=extra["initial_potential"][()])


def _read_balanced(extra: h5py.Group) -> IntegrateAndFire | None:
    if "balanced" not in extra:
        return None
    return IntegrateAndFire(*(extra["balanced"][name][()] for name in _BALANCED))


def _text(dataset: h5py.Dataset) -> str:
    value: bytes = dataset[()]
    return value.decode()
