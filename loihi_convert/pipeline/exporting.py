"""model.pt -> netx or NIR files: convert, write, and compare each file with the network in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.lava.exchange import reset_interval
from loihi_convert.backends.reference import run_graded, run_network
from loihi_convert.backends.result import first_difference
from loihi_convert.checks.lava_dl import LavaDl
from loihi_convert.conversion.agreement import MOST, Agreement, count_notes, require_calibration
from loihi_convert.conversion.flow import QuantizationReport
from loihi_convert.conversion.graded import GradedLayerReport, require_relu, to_graded
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions, require_timesteps
from loihi_convert.conversion.scales import HEADROOM
from loihi_convert.errors import InputError, UnsupportedModelError, UsageError, VerificationError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import FileFormat, Readout, Target
from loihi_convert.ground.files import (
    asked,
    make_folder,
    refuse_to_overwrite,
    require_output,
    require_writable,
    write_atomically,
)
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.neuron_model import NeuronModel, circuit
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.pipeline.converting import COMPARED, converted, require_same_outputs
from loihi_convert.pipeline.formats import (
    FORMATS,
    LAVA_DL_IMAGES,
    NOT_THE_SAME,
    VERIFIED_IMAGES,
    Job,
    require_file_format,
)
from loihi_convert.reading.source import Source, open_source
from loihi_convert.simulation.image_shards import DividedImages, Workers


@dataclass(frozen=True, eq=False)
class ExportResult:
    """One written file.

    Parameters
    ----------
    path, network
        The file, and the network in it.
    report
        Cost of rounding.
    notes
        What was dropped, chosen or lost, and what unmodified lava-dl needs; one sentence each.
    verified_images
        Number of images on which the file was compared with the network in memory; 0 for NIR files.
    agreement
        Agreement of ``network`` with the CNN, on calibration images.
    file_format
        ``"netx"`` or ``"nir"``.
    is_read_back
        Whether every number of a NIR file was read back and compared.
    lava_dl
        Unmodified lava-dl beside `ref`, on calibration images; None for NIR files, or as in `checks.lava_dl.lava_dl`.
    """

    path: Path
    network: QuantizedNetwork
    report: QuantizationReport
    notes: tuple[str, ...]
    verified_images: int
    agreement: Agreement
    file_format: FileFormat = "netx"
    is_read_back: bool = False
    lava_dl: LavaDl | None = None


def output_paths(
    model: Path, output: Path | None, timesteps: Sequence[int], file_format: FileFormat = "netx"
) -> tuple[Path, ...]:
    """Return the paths that `export` writes: model.net for one T; model-T4.net, ... for several.

    Raises
    ------
    InputError
        If the system does not say whether ``output`` is a folder.
    """
    # model.pth.tar becomes model.net.
    stem = model.with_suffix("") if model.suffix == ".tar" else model
    default = stem.with_suffix(FORMATS[file_format].suffix)
    base = default if output is None else output / default.name if asked(output, Path.is_dir) else output
    if len(timesteps) == 1:
        return (base,)
    return tuple(base.with_name(f"{base.stem}-T{steps}{base.suffix}") for steps in timesteps)


def export(
    model: str | Path | Source,
    output: str | Path | None,
    timesteps: Sequence[int],
    calibration: Array,
    *,
    balance_options: BalanceOptions = BalanceOptions(),
    quantize_options: QuantizeOptions = QuantizeOptions(),
    skip_copies: int | None = None,
    device: str = "cpu",
    workers: Workers | None = None,
    overwrite: bool = False,
    verify: bool = True,
    file_format: FileFormat = "netx",
    allow_hard_reset: bool = False,
) -> tuple[ExportResult, ...]:
    """Write one file per T for the CNN ``model``; each is balanced, quantized and verified separately.

    Parameters
    ----------
    model
        A checkpoint written by `train`, or a `Source` from another file or an nn.Module.
    output
        The ``.net`` or ``.nir`` file, or an existing folder for a file with the checkpoint's name; by default next to
        the checkpoint. With several T, ``-T4`` and so on precede the suffix.
    timesteps
        The latencies T to balance for.
    calibration
        Training images, uint8 ``(N, C, H, W)``.
    balance_options, quantize_options
        See `BalanceOptions` and `QuantizeOptions`.
    skip_copies
        See `converting.converted`.
    device
        Where to simulate: ``"cpu"`` or another torch device.
    workers
        Processes that share the calibration images; the files are the same, bit for bit. None: this process simulates
        them all.
    overwrite
        Replace existing files.
    verify
        Read each file back and compare it with the network in memory: a netx file by its spikes and potentials, a NIR
        file by its numbers.
    file_format
        ``"netx"``, or ``"nir"`` (needs the package ``nir``).
    allow_hard_reset
        For NIR: write soft-reset neurons as NIR's IF, which resets to 0; see `nir.writer`.
    """
    require_timesteps(timesteps)
    model = Path(model) if isinstance(model, str) else model
    output = None if output is None else Path(output)
    checkpoint = model.path if isinstance(model, Source) else model
    base = checkpoint or output
    if base is None:
        raise UsageError("found none for a CNN in memory", where="output", expected="must be a path")
    paths = output_paths(base, output, timesteps, file_format)
    require_file_format(file_format, allow_hard_reset, paths[0])
    for path in paths:
        require_output(path, overwrite, checkpoint)
    source = model if isinstance(model, Source) else open_source(model)
    some = np.asarray(calibration[:LAVA_DL_IMAGES])
    # Each pass over the images would read stored ones again.
    images = np.asarray(calibration) if workers is None else DividedImages(calibration, workers, device)
    exported = []
    for path, steps in zip(paths, timesteps, strict=True):
        made = converted(
            source, images, steps, balance_options, quantize_options, skip_copies=skip_copies, device=device
        )
        network = made.quantized
        job = Job(made.report, some, allow_hard_reset, overwrite, verify, device)
        written = FORMATS[file_format].write(network, path, job)
        exported.append(
            ExportResult(
                path,
                network,
                made.report,
                (*source.notes, *made.notes, *written.notes),
                written.verified_images,
                made.agreement,
                file_format,
                written.is_read_back,
                written.lava_dl,
            )
        )
    return tuple(exported)


@dataclass(frozen=True, eq=False)
class GradedExport:
    """One written file.

    Parameters
    ----------
    path, network
        The file, and the network in it.
    layers
        The integers of each layer.
    agreement
        Agreement of ``network`` with the CNN, on calibration images.
    notes
        Notes for the user, one sentence each: what was dropped from the CNN, and whether much is lost.
    verified_images
        Number of images on which the file was compared with the network in memory.
    """

    path: Path
    network: GradedNetwork
    layers: tuple[GradedLayerReport, ...]
    agreement: Agreement
    notes: tuple[str, ...]
    verified_images: int


def export_graded(
    source: Source,
    output: str | Path,
    calibration: Array,
    *,
    overwrite: bool = False,
    verify: bool = True,
) -> GradedExport:
    """Write a netx file of graded spikes for the CNN ``source``.

    Parameters
    ----------
    source
        The CNN.
    output
        The ``.net`` file.
    calibration
        Training images, uint8 ``(N, C, H, W)``; the first `MOST` are used.
    overwrite
        Replace an existing file.
    verify
        Read the file back and compare it, bit for bit, with the network in memory.
    """
    output = Path(output)
    require_output(output, overwrite, source.path)
    if source.neurons is not None:
        raise UnsupportedModelError(
            "a spiking network", where=output.name, expected="must be a CNN: graded spikes carry its activations"
        )
    source = source.with_skip_copies(1)
    require_relu(source.network)
    calibration = np.asarray(calibration[:MOST])
    require_calibration(source.network, calibration)
    require_same_outputs(source, calibration[:COMPARED])
    with progress_bar(f"{output.name}: rounding") as progress:
        made = to_graded(source.network, calibration, progress=progress)
    record = {"headroom": HEADROOM, "calibration_images": len(calibration)}
    provenance = made.network.provenance.with_parts(model=dict(source.provenance), graded=record)
    network = replace(made.network, provenance=provenance)
    netx.write_graded(network, output, overwrite=overwrite)
    verified = _verify_graded(output, network, calibration[:VERIFIED_IMAGES]) if verify else 0
    notes = (*source.notes, *count_notes(calibration), *made.notes)
    return GradedExport(output, network, made.layers, made.agreement, notes, verified)


def _verify_graded(path: Path, network: GradedNetwork, images: Array) -> int:
    """Compare the file with the network in memory: messages and activations of every layer; return the image count."""
    written = read_graded(path)
    for image in range(len(images)):
        found, meant = (run_graded(one, images[image : image + 1], trace=True) for one in (written, network))
        difference = first_difference(found, meant, first_image=image)
        if difference is not None:
            path.unlink()
            raise VerificationError(f"{NOT_THE_SAME}: {difference}", where=path)
    return len(images)


def read_graded(path: str | Path) -> GradedNetwork:
    """Return the network in the netx file at ``path``, which `export_graded` wrote."""
    network = netx.read_stored(path).network
    if not isinstance(network, GradedNetwork):
        raise InputError("does not hold graded spikes that `export` wrote", where=path)
    return network


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


def require_new_bundle(folder: Path, path: Path, *, overwrite: bool) -> tuple[Path, ...]:
    """Return the files of a bundle of the file at ``path`` in ``folder``."""
    written = tuple(folder / name for name in (NETWORK, ARRAYS, SCRIPT))
    for file in written:
        if file.resolve() == path.resolve():
            found = f"found {folder}, where {file.name} is the exported file itself"
            raise UsageError(found, where="bundle", expected="must be another folder")
        refuse_to_overwrite(file, overwrite)
    require_writable(next(path for path in (folder, *folder.parents) if asked(path, Path.exists)) / NETWORK)
    return written


def write_bundle(folder: Path, path: Path, images: Array, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write a bundle of the file at ``path`` and return its files.

    Parameters
    ----------
    folder
        The output folder; created if it does not exist.
    path
        An exported file, of target loihi2.
    images
        uint8 ``(N, C, H, W)``.
    overwrite
        Replace files that exist.
    """
    network = netx.read(path)
    is_poisson = network.poisson_seed is not None
    require_bundle(network.target, (network.timesteps,), is_poisson=is_poisson, readout=network.readout)
    make_folder(folder, "bundle")
    written = require_new_bundle(folder, path, overwrite=overwrite)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **_arrays(network, images))
    script = files("loihi_convert.backends.loihi2").joinpath(f"{SCRIPT}.txt").read_bytes()
    for file, content in zip(written, (path.read_bytes(), arrays.getvalue(), script), strict=True):
        write_atomically(file, content)
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
