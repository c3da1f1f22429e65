"""A complete simulator of the .net files of loihi-convert, written from docs/reference/file-format.md alone.

It needs NumPy and h5py only. `tests/test_file_format.py` compares it with `ref`: error 0.
"""

import h5py
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

UNIT = 64  # potentials are kept in 1/64 of a weight unit: only the clipping of hard reset needs the fraction


def read_layers(file):
    """The layers that have weights, in order, each as a dictionary of arrays."""
    layers = []
    for index in range(len(file["layer"])):
        stock = file[f"layer/{index}"]
        if stock["type"][()] in (b"conv", b"dense"):
            extra = file[f"loihi_convert/layer/{len(layers)}"]
            layer = {name: stock[name][()] for name in stock if isinstance(stock[name], h5py.Dataset)}
            if "bias" in layer:
                layer["bias"] = layer["bias"].transpose()  # stored as (W, H, C) or (C,)
            if "initial_potential" in extra:
                layer["V0"] = extra["initial_potential"][()]
                layer["threshold"] = stock["neuron/vThMant"][()] + 1 + 0 * layer["V0"]
            layers.append(layer)
    return layers


def current(layer, x):
    """What the weights make of x, (N, C, H, W) or (N, inputs); float64 is exact here, far below 2^53."""
    weight = layer["weight"].astype(np.float64)
    if weight.ndim == 2:
        total = x.reshape(len(x), -1) @ weight.T  # C, H, W order: the last axis runs fastest
    else:
        (pad_h, pad_w), (step_h, step_w), (gap_h, gap_w) = layer["padding"], layer["stride"], layer["dilation"]
        extent = [gap * (size - 1) + 1 for gap, size in zip((gap_h, gap_w), weight.shape[2:], strict=True)]
        x = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
        windows = sliding_window_view(x, extent, (2, 3))[:, :, ::step_h, ::step_w, ::gap_h, ::gap_w]
        parts = zip(np.split(windows, layer["groups"], 1), np.split(weight, layer["groups"]), strict=True)
        maps = [np.tensordot(part, w, ((1, 4, 5), (1, 2, 3))) for part, w in parts]
        total = np.concatenate(maps, 3).transpose(0, 3, 1, 2)
    return total + per_channel(layer.get("bias", np.zeros(1)), total)


def per_channel(values, like):
    """One number per channel, or per neuron, in the axes of ``like``."""
    return values if values.ndim == like.ndim - 1 else values.reshape(-1, *[1] * (like.ndim - 2))


def limited(state, model):
    """The state as its register holds it: clipped, or wrapped round."""
    if model == "circuit":
        return 2**23 - (2**23 - state) % 2**24  # into (-2^23, 2^23]
    limit = (2**17 - 1) * UNIT if model == "soft" else 2**23 - 1
    return np.clip(state, -limit, limit)


def poisson(images, seed, step):
    """The spikes of one step: one stream of random numbers for each image, counted from step 0."""
    pixels = images[0].size
    spikes = np.empty((len(images), pixels))
    counts = -(-pixels // 16)
    for number, image in enumerate(images):
        stream = np.random.Philox(key=[seed, number], counter=[step * counts, 0, 0, 0])
        words = stream.random_raw(4 * counts).astype("<u8").view("<u2")[:pixels].astype(np.int64)
        spikes[number] = (words * 255 >> 16) < image.ravel()
    return spikes.reshape(images.shape)


def run(path, images, timesteps=None):
    """Output potentials and output spikes after each step, (N, T, outputs), for uint8 images (N, C, H, W)."""
    with h5py.File(path) as file:
        layers, own = read_layers(file), file["loihi_convert"]
        text = {name: own[name][()].decode() for name in ("reset", "target") if name in own}
        model = "circuit" if text.get("target") == "loihi2" else text["reset"]
        timesteps, levels = timesteps or int(own["timesteps"][()]), 2 ** int(own["pixel_bits"][()]) - 1
        seed = int(own["poisson_seed"][()]) if "poisson_seed" in own else None
        last = own[f"layer/{len(layers) - 1}"]
        low_bits = int(last["low_bits"][()]) if "low_bits" in last else 0
    states, potentials, spikes, pixels = [None] * len(layers), [], [], np.round(images / 255 * levels)
    for step in range(timesteps):
        x = pixels if seed is None else poisson(images, seed, step)
        for index, layer in enumerate(layers):
            arriving = current(layer, x) * UNIT
            v0 = 0 * arriving + per_channel(layer.get("V0", np.zeros(1)), arriving) * UNIT
            v = (v0 if states[index] is None else states[index]) + arriving
            v = limited(v - v0, model) + v0 if model == "circuit" else limited(v, model)
            if "threshold" in layer:
                threshold = per_channel(layer["threshold"], arriving) * UNIT
                x = (v > threshold - UNIT).astype(np.float64)
                v = v * (1 - x) if model == "hard" else v - threshold * x
            states[index] = v
        potentials.append(np.floor(v / UNIT).astype(np.int64))
        spikes.append(x.astype(np.int64) if "threshold" in layers[-1] else None)
    v = np.stack(potentials, 1)
    if low_bits:
        high, low = np.split(v, 2, axis=-1)
        v = (high << low_bits) + low
    return v, None if spikes[0] is None else np.stack(spikes, 1)
