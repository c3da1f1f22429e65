"""A bundle: a file of target loihi2, images and expected potentials, with a script that needs only Lava."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.lava.exchange import reset_interval
from loihi_convert.backends.reference import run_network
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Readout, Target
from loihi_convert.ground.files import asked, make_folder, refuse_to_overwrite, require_writable, write_atomically
from loihi_convert.ir.neuron_model import NeuronModel, circuit
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.pipeline.options import WriteOptions

NETWORK, ARRAYS, SCRIPT = "model.net", "bundle.npz", "run_bundle.py"
BUNDLED_IMAGES: Final = 10
"""Images of a bundle: a minute on Lava's simulator."""


def require_bundle(
    target: Target, timesteps: tuple[int, ...], *, is_poisson: bool, readout: Readout = "potential"
) -> None:
    """Raise a `UsageError` unless a file with these options can be bundled."""
    if target != "loihi2":
        raise UsageError(
            f"the file is of target {target}, whose soft-reset neurons are not part of Lava",
            where="bundle",
            expected="needs `target='loihi2'`",
        )
    if len(timesteps) > 1:
        raise UsageError(f"found {len(timesteps)} values of T", where="bundle", expected="must be one T")
    if is_poisson:
        raise UsageError("Poisson input was chosen", where="bundle", expected="needs pixels as a constant input")
    if readout == "spikes":
        # The script reads potentials, which an output neuron's reset changes only after the step.
        raise UsageError("`readout='spikes'` was chosen", where="bundle", expected="needs the outputs' potentials")


def require_new_bundle(folder: Path, path: Path, writing: WriteOptions) -> tuple[Path, ...]:
    """Return the files of a bundle of the file at ``path`` in ``folder``."""
    if writing.file_format != "netx":
        found = f"given with `file_format='{writing.file_format}'`"
        raise UsageError(found, where="bundle", expected="must come with a netx file")
    written = tuple(folder / name for name in (NETWORK, ARRAYS, SCRIPT))
    for file in written:
        if file.resolve() == path.resolve():
            found = f"found {folder}, where {file.name} is the exported file itself"
            raise UsageError(found, where="bundle", expected="must be another folder")
        refuse_to_overwrite(file, writing.overwrite)
    require_writable(next(path for path in (folder, *folder.parents) if asked(path, Path.exists)) / NETWORK)
    return written


def write_bundle(folder: Path, path: Path, images: Array, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write a bundle of the file at ``path``, of target loihi2, into ``folder`` and return its files.

    ``images`` are uint8 ``(N, C, H, W)``.
    """
    network = netx.read(path)
    is_poisson = network.poisson_seed is not None
    require_bundle(network.target, (network.timesteps,), is_poisson=is_poisson, readout=network.readout)
    make_folder(folder, "bundle")
    written = require_new_bundle(folder, path, WriteOptions(overwrite=overwrite))
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **_arrays(network, images))
    script = files("loihi_convert.backends.loihi2").joinpath(f"{SCRIPT}.txt").read_bytes()
    for file, content in zip(written, (path.read_bytes(), arrays.getvalue(), script), strict=True):
        write_atomically(file, content, overwrite=overwrite)
    return written


def _arrays(network: QuantizedNetwork, images: Array) -> dict[str, Any]:
    """Return the contents of ``bundle.npz``, by name."""
    timesteps, period = network.timesteps, reset_interval(network.timesteps)
    shown = (np.arange(2 * period) < timesteps).astype(np.int32)
    pixels = network.pixels(images).astype(np.int32)
    expected = run_network(network, images, timesteps, neuron=NeuronModel.CIRCUIT)
    found: dict[str, Any] = {
        # Lava's axes are W, H, C, followed by time.
        "input": (pixels.transpose()[..., np.newaxis] * shown).reshape(*pixels.shape[:0:-1], -1),
        "switch": np.tile(shown, len(images))[np.newaxis],
        "period": np.array(period),
        "potentials": expected.potentials,
    }
    stored = network.stored
    for index, (layer, shape) in enumerate(zip(stored.layers, stored.shapes, strict=True)):
        numbers, axes = circuit(layer), shape[::-1]
        found[f"{index}/vth"] = np.array(numbers.vth)
        found[f"{index}/bias_mant"] = np.broadcast_to(numbers.bias_mant, axes)
        found[f"{index}/bias_exp"] = np.array(numbers.bias_exp)
        if layer.neuron is not None:
            found[f"{index}/own"] = -np.broadcast_to(numbers.self_weight_mant, axes).ravel()
            found[f"{index}/own_exp"] = np.array(numbers.self_weight_exp)
        if numbers.source_mant is not None:
            # Weights of both signs are even numbers on Loihi: twice the mantissa.
            weights = np.broadcast_to(numbers.source_mant.transpose(), axes)
            found[f"{index}/bias"] = 2 * weights.reshape(-1, 1)
            found[f"{index}/bias_weight_exp"] = np.array(numbers.source_exp - 1)
    return found
