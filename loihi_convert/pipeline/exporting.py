"""model.pt -> netx or NIR files: convert, write, and compare each file with the network in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert import netx
from loihi_convert.backends import open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import first_difference, result_size
from loihi_convert.checks.lava_dl import LavaDl, lava_dl, lava_dl_notes
from loihi_convert.conversion.agreement import Agreement
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions, require_timesteps
from loihi_convert.conversion.quantization_report import QuantizationReport
from loihi_convert.errors import UsageError, VerificationError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import FileFormat
from loihi_convert.ground.file_kinds import NIR
from loihi_convert.ground.files import asked, require_output
from loihi_convert.ground.progress import ProgressFactory, no_progress_bar
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.nir import write as nir
from loihi_convert.pipeline.converting import converted
from loihi_convert.reading.source import Source, open_source
from loihi_convert.simulation.image_shards import DividedImages, Workers

VERIFIED_IMAGES: Final = 32
"""Number of calibration images on which an exported file is compared, layer by layer, with the network in memory."""

LAVA_DL_IMAGES: Final = 200
"""Number of calibration images on which `ref` is compared with unmodified lava-dl."""

TRACED_BYTES: Final = 2**29
"""Most bytes of spikes and potentials compared at once."""

NOT_THE_SAME: Final = "the written file did not compute the same as the network in memory, and was deleted"
"""The reason of the error about a file that fails its verification."""


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
    default = stem.with_suffix(NIR if file_format == "nir" else netx.SUFFIX)
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
    bars: ProgressFactory = no_progress_bar,
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
        For NIR: write soft-reset neurons as NIR's IF, which resets to 0; see `nir.write`.

    Raises
    ------
    PlatformError
        If the package ``nir`` is needed and not installed.
    InputError
        If the checkpoint cannot be used, or the calibration images do not fit it, or a file exists or cannot be
        written, or the network takes more than ``max_cores`` neurocores.
    UsageError
        If an output file is the checkpoint, ``output`` is missing for a CNN in memory, or options contradict each
        other.
    UnsupportedModelError
        If a part of the CNN has no spiking equivalent.
    VerificationError
        If a written file does not compute the same as the network in memory.
    PlatformError
        As in `Workers.map`.
    """
    require_timesteps(timesteps)
    model = Path(model) if isinstance(model, str) else model
    output = None if output is None else Path(output)
    checkpoint = model.path if isinstance(model, Source) else model
    base = checkpoint or output
    if base is None:
        raise UsageError("found none for a CNN in memory", where="output", expected="must be a path")
    paths = output_paths(base, output, timesteps, file_format)
    nir.require_file_format(file_format, allow_hard_reset, paths[0])
    for path in paths:
        require_output(path, overwrite, checkpoint)
    source = model if isinstance(model, Source) else open_source(model)
    some = np.asarray(calibration[:LAVA_DL_IMAGES])
    compared = some[:VERIFIED_IMAGES]
    # Each pass over the images would read stored ones again.
    images = np.asarray(calibration) if workers is None else DividedImages(calibration, workers, device)
    exported = []
    for path, steps in zip(paths, timesteps, strict=True):
        made = converted(
            source,
            images,
            steps,
            balance_options,
            quantize_options,
            skip_copies=skip_copies,
            device=device,
            bars=bars,
        )
        network = made.quantized
        notes = (*source.notes, *made.notes)
        if file_format == "nir":
            nir.write(network, path, hard_reset=allow_hard_reset, overwrite=overwrite, verify=verify)
            notes = (*notes, *nir.nir_notes(network, allow_hard_reset, made.report))
            result = ExportResult(path, network, made.report, notes, 0, made.agreement, "nir", verify)
        else:
            netx.write(network, path, overwrite=overwrite)
            verified = _verify(path, network, compared) if verify else 0
            notes = (*notes, *lava_dl_notes(network))
            by_lava_dl = lava_dl(network, some, steps, device=device)
            result = ExportResult(path, network, made.report, notes, verified, made.agreement, lava_dl=by_lava_dl)
        exported.append(result)
    return tuple(exported)


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
    with open_backend("ref") as backend:
        for first in range(0, len(images), at_once):
            some = images[first : first + at_once]
            for timesteps, trace in runs:
                written = backend.run(path, some, timesteps, trace=trace)
                meant = run_network(network, some, timesteps, trace=trace)
                difference = first_difference(written, meant, first_image=first)
                if difference:
                    path.unlink()
                    raise VerificationError(f"{NOT_THE_SAME}: {difference}", where=path)
    return len(images)
