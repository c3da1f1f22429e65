"""model.pt -> netx or NIR files: convert, write, and compare each file with the network in memory.

A format of files is a line of `FORMATS`: its suffix, and how a file is written and verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.reference import ReferenceBackend, run_graded, run_network
from loihi_convert.backends.result import RunResult, first_difference, result_size
from loihi_convert.checks.lava_dl import LavaDl, lava_dl, lava_dl_notes
from loihi_convert.conversion.agreement import MOST, Agreement, count_notes, require_calibration
from loihi_convert.conversion.flow import QuantizationReport
from loihi_convert.conversion.graded import GradedLayerReport, require_relu, to_graded
from loihi_convert.conversion.options import ConversionOptions, require_timesteps
from loihi_convert.conversion.scales import HEADROOM
from loihi_convert.errors import InputError, UnsupportedModelError, UsageError, VerificationError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import FileFormat
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.files import NIR, asked, require_output
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.nir import writer as nir
from loihi_convert.pipeline.converting import COMPARED, converted, require_same_outputs
from loihi_convert.pipeline.options import WriteOptions
from loihi_convert.reading.source import Source, open_source
from loihi_convert.simulation.image_shards import DividedImages, ImageArray

VERIFIED_IMAGES: Final = 32
"""Number of calibration images on which an exported file is compared, layer by layer, with the network in memory."""

LAVA_DL_IMAGES: Final = 200
"""Number of calibration images on which `ref` is compared with unmodified lava-dl."""

TRACED_BYTES: Final = 2**29
"""Most bytes of spikes and potentials compared at once."""

NOT_THE_SAME: Final = "the written file did not compute the same as the network in memory, and was deleted"
"""The reason of the error about a file that fails its verification."""


class Job(NamedTuple):
    """What a format needs besides the network and the path.

    Parameters
    ----------
    report
        Cost of rounding; None for the network of a file.
    images
        Calibration images, uint8 ``(N, C, H, W)``, on which the file is compared.
    writing, device
        As in `export`.
    """

    report: QuantizationReport | None
    images: Array
    writing: WriteOptions
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Written:
    """What is known of a written file.

    Parameters
    ----------
    notes
        What its readers must know, one sentence each.
    verified_images
        Number of images on which it was compared with the network in memory; 0 for NIR files.
    is_read_back
        Whether every number of a NIR file was read back and compared.
    lava_dl
        Unmodified lava-dl beside `ref`, on calibration images; None for NIR files, or as in `checks.lava_dl.lava_dl`.
    """

    notes: tuple[str, ...]
    verified_images: int = 0
    is_read_back: bool = False
    lava_dl: LavaDl | None = None


class NetworkFormat(NamedTuple):
    """A file format: the suffix of its files, what writes one, the package that this needs.

    ``resets_hard``: whether it can write soft-reset neurons as ones that reset to 0.
    """

    suffix: str
    write: Callable[[QuantizedNetwork, Path, Job], Written]
    package: str | None = None
    resets_hard: bool = False


def _write_netx(network: QuantizedNetwork, path: Path, job: Job) -> Written:
    netx.write(network, path, overwrite=job.writing.overwrite)
    verified = _verify(path, network, job.images[:VERIFIED_IMAGES]) if job.writing.verify else 0
    by_lava_dl = lava_dl(network, job.images, network.timesteps, device=job.device)
    return Written(lava_dl_notes(network), verified, lava_dl=by_lava_dl)


def _write_nir(network: QuantizedNetwork, path: Path, job: Job) -> Written:
    options = job.writing
    nir.write(network, path, hard_reset=options.allow_hard_reset, overwrite=options.overwrite, verify=options.verify)
    return Written(nir.nir_notes(network, options.allow_hard_reset, job.report), is_read_back=options.verify)


FORMATS: Final[Mapping[FileFormat, NetworkFormat]] = {
    "netx": NetworkFormat(netx.SUFFIX, _write_netx),
    "nir": NetworkFormat(NIR, _write_nir, package="nir", resets_hard=True),
}


def require_file_format(writing: WriteOptions, output: Path | None) -> None:
    """Raise an error if the format does not fit the options or the output's suffix; called before any work.

    Raises
    ------
    UsageError
        If the suffix of ``output`` is that of another format, or hard reset is allowed in a format whose neurons are
        those of the network.
    PlatformError
        If the package that the format needs is not installed.
    """
    file_format = writing.file_format
    chosen = FORMATS[file_format]
    if output is not None:
        suffixes = {one.suffix: name for name, one in FORMATS.items()}
        named = suffixes.get(output.suffix.lower(), "netx")
        if named != file_format:
            about = named if file_format == "netx" else file_format
            only = "only " if about == named else ""
            expected = f"must {only}end in {FORMATS[about].suffix} with `file_format='{about}'`"
            raise UsageError(f"found {output.name}", where="output", expected=expected)
        if file_format == "netx":
            require_netx_name(output, "output")
    if writing.allow_hard_reset and not chosen.resets_hard:
        expected = "must come with `file_format='nir'`"
        raise UsageError(f"given for a {file_format} file", where="allow_hard_reset", expected=expected)
    if chosen.package is not None:
        optional_module(chosen.package, f"`file_format='{file_format}'` writes {chosen.suffix} files")


# Suffixes that a netx file must not have: `run` would take it for a CNN.
_OTHERS: Final = (".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".npz")


def require_netx_name(output: Path, where: str) -> None:
    """Raise a `UsageError` if ``output``, a netx file to be written, has the suffix of a CNN or of a NIR file.

    ``where`` is the parameter that names it.
    """
    if output.suffix.lower() in (NIR, *_OTHERS):
        kind = "NIR file" if output.suffix.lower() == NIR else "CNN"
        found, expected = f"found {output.name}, the name of a {kind}", f"must end in {netx.SUFFIX}, or in none"
        raise UsageError(found, where=where, expected=expected)


class Rewritten(NamedTuple):
    """A file made from a netx file: its path, its network, and notes for the user."""

    path: Path
    network: QuantizedNetwork
    notes: tuple[str, ...]


def rewritten(path: Path, output: Path | None, writing: WriteOptions) -> Rewritten:
    """Write the network of the netx file at ``path`` in another format, by default next to it."""
    require_file_format(writing, output)
    chosen = FORMATS[writing.file_format]
    to = path.with_suffix(chosen.suffix) if output is None else output
    require_output(to, writing.overwrite, path)
    network = netx.read(path)
    written = chosen.write(network, to, Job(None, np.zeros((0, *network.input_shape), np.uint8), writing))
    return Rewritten(to, network, written.notes)


def _verify(path: Path, network: QuantizedNetwork, images: Array) -> int:
    """Compare the file with the network in memory, every layer at every step; return the number of images.

    Deletes the file and raises a `VerificationError` if they differ.

    Compares spikes and potentials of as many images at once as fit into `TRACED_BYTES`. If not even all steps of one
    image fit, it compares those of the first steps and, for all steps, the output's potentials and each layer's spike
    counts and operations.
    """
    steps = min(network.timesteps, max(1, TRACED_BYTES // result_size(network, 1, 1, trace=True)))
    at_once = max(1, TRACED_BYTES // result_size(network, 1, steps, trace=True))
    runs = [(steps, True)] if steps == network.timesteps else [(steps, True), (network.timesteps, False)]
    stored, ref = netx.read(path), ReferenceBackend()
    for first in range(0, len(images), at_once):
        some = images[first : first + at_once]
        for timesteps, trace in runs:
            written = ref.run(stored, some, timesteps, trace=trace)
            meant = run_network(network, some, timesteps, trace=trace)
            _require_same(path, written, meant, first)
    return len(images)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExportResult(Written):
    """A file with binary spikes: its network, the cost of rounding, the agreement with the CNN on calibration images.

    Its notes also say what was dropped, chosen or lost.
    """

    path: Path
    network: QuantizedNetwork
    report: QuantizationReport
    agreement: Agreement
    file_format: FileFormat


def output_paths(model: Path, output: Path | None, timesteps: Sequence[int], writing: WriteOptions) -> tuple[Path, ...]:
    """Return the paths that `export` writes: model.net for one T; model-T4.net, ... for several.

    Raises
    ------
    InputError
        If the system does not say whether ``output`` is a folder.
    """
    # model.pth.tar becomes model.net.
    stem = model.with_suffix("") if model.suffix == ".tar" else model
    default = stem.with_suffix(FORMATS[writing.file_format].suffix)
    base = default if output is None else output / default.name if asked(output, Path.is_dir) else output
    if len(timesteps) == 1:
        return (base,)
    return tuple(base.with_name(f"{base.stem}-T{steps}{base.suffix}") for steps in timesteps)


def export(
    model: str | Path | Source,
    output: str | Path | None,
    timesteps: Sequence[int],
    calibration: ImageArray,
    options: ConversionOptions = ConversionOptions(),
    writing: WriteOptions = WriteOptions(),
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
        Training images, uint8 ``(N, C, H, W)``. The files are the same, bit for bit, if workers share them.
    options, writing
        See `ConversionOptions` and `WriteOptions`.
    """
    require_timesteps(timesteps)
    model = Path(model) if isinstance(model, str) else model
    output = None if output is None else Path(output)
    checkpoint = model.path if isinstance(model, Source) else model
    base = checkpoint or output
    if base is None:
        raise UsageError("found none for a CNN in memory", where="output", expected="must be a path")
    paths = output_paths(base, output, timesteps, writing)
    for path in paths:
        require_output(path, writing.overwrite, checkpoint)
    require_file_format(writing, paths[0])
    source = model if isinstance(model, Source) else open_source(model)
    some = np.asarray(calibration[:LAVA_DL_IMAGES])
    # Each pass over the images would read stored ones again.
    images = calibration if isinstance(calibration, DividedImages) else np.asarray(calibration)
    exported = []
    for path, steps in zip(paths, timesteps, strict=True):
        made = converted(source, images, steps, options)
        network = made.quantized
        written = FORMATS[writing.file_format].write(network, path, Job(made.report, some, writing, options.device))
        exported.append(
            ExportResult(
                **vars(written) | {"notes": (*source.notes, *made.notes, *written.notes)},
                path=path,
                network=network,
                report=made.report,
                agreement=made.agreement,
                file_format=writing.file_format,
            )
        )
    return tuple(exported)


@dataclass(frozen=True, eq=False, kw_only=True)
class GradedExport(Written):
    """A file with graded spikes: its network, the integers of each layer, the agreement with the CNN."""

    path: Path
    network: GradedNetwork
    layers: tuple[GradedLayerReport, ...]
    agreement: Agreement


def export_graded(
    source: Source, output: str | Path, calibration: Array, *, writing: WriteOptions = WriteOptions()
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
    writing
        A netx file is verified bit for bit: messages and activations of every layer.
    """
    output = Path(output)
    require_output(output, writing.overwrite, source.path)
    if source.neurons is not None:
        raise UnsupportedModelError(
            "a spiking network", where=output.name, expected="must be a CNN: graded spikes carry its activations"
        )
    source = source.with_skip_copies(1)
    require_relu(source.network)
    calibration = np.asarray(calibration[:MOST])
    require_calibration(source.network, calibration)
    require_same_outputs(source, calibration[:COMPARED])
    with progress_bar(f"{output.name}: rounding"):
        made = to_graded(source.network, calibration)
    record = {"headroom": HEADROOM, "calibration_images": len(calibration)}
    provenance = made.network.provenance.with_parts(model=dict(source.provenance), graded=record)
    network = replace(made.network, provenance=provenance)
    netx.write(network, output, overwrite=writing.overwrite)
    return GradedExport(
        notes=(*source.notes, *count_notes(calibration), *made.notes),
        verified_images=_verify_graded(output, network, calibration[:VERIFIED_IMAGES]) if writing.verify else 0,
        path=output,
        network=network,
        layers=made.layers,
        agreement=made.agreement,
    )


def _verify_graded(path: Path, network: GradedNetwork, images: Array) -> int:
    """Compare the file with the network in memory: messages and activations of every layer; return the image count."""
    written = read_graded(path)
    for image in range(len(images)):
        found, meant = (run_graded(one, images[image : image + 1], trace=True) for one in (written, network))
        _require_same(path, found, meant, image)
    return len(images)


def _require_same(path: Path, found: RunResult, meant: RunResult, first_image: int) -> None:
    """Delete the file at ``path`` and raise a `VerificationError` unless it computed what is meant."""
    if difference := first_difference(found, meant, first_image=first_image):
        path.unlink()
        raise VerificationError(f"{NOT_THE_SAME}: {difference}", where=path)


def read_graded(path: str | Path) -> GradedNetwork:
    """Return the network in the netx file at ``path``, which `export_graded` wrote."""
    network = netx.read_stored(path).network
    if not isinstance(network, GradedNetwork):
        raise InputError("does not hold graded spikes that `export` wrote", where=path)
    return network
