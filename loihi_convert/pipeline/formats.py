"""The formats of an exported network, a line each in `FORMATS`: its suffix, and how a file is written and verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.backends.result import first_difference, result_size
from loihi_convert.checks.lava_dl import LavaDl, lava_dl, lava_dl_notes
from loihi_convert.conversion.flow import QuantizationReport
from loihi_convert.errors import UsageError, VerificationError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import FileFormat
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.files import NIR, require_output
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.nir import writer as nir

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
    allow_hard_reset, overwrite, verify, device
        As in `exporting.export`.
    """

    report: QuantizationReport | None
    images: Array
    allow_hard_reset: bool
    overwrite: bool
    verify: bool
    device: str


class Written(NamedTuple):
    """What is known of a written file.

    Parameters
    ----------
    notes
        What its readers must know, one sentence each.
    verified_images
        Number of images on which it was compared with the network in memory.
    is_read_back
        Whether every number was read back and compared.
    lava_dl
        Unmodified lava-dl beside `ref`, on calibration images; None as in `checks.lava_dl.lava_dl`.
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
    netx.write(network, path, overwrite=job.overwrite)
    verified = _verify(path, network, job.images[:VERIFIED_IMAGES]) if job.verify else 0
    by_lava_dl = lava_dl(network, job.images, network.timesteps, device=job.device)
    return Written(lava_dl_notes(network), verified, lava_dl=by_lava_dl)


def _write_nir(network: QuantizedNetwork, path: Path, job: Job) -> Written:
    nir.write(network, path, hard_reset=job.allow_hard_reset, overwrite=job.overwrite, verify=job.verify)
    return Written(nir.nir_notes(network, job.allow_hard_reset, job.report), is_read_back=job.verify)


FORMATS: Final[Mapping[FileFormat, NetworkFormat]] = {
    "netx": NetworkFormat(netx.SUFFIX, _write_netx),
    "nir": NetworkFormat(NIR, _write_nir, package="nir", resets_hard=True),
}


def require_file_format(file_format: FileFormat, allow_hard_reset: bool, output: Path | None) -> None:
    """Raise an error if the format does not fit the options or the output's suffix; called before any work.

    Raises
    ------
    UsageError
        If the suffix of ``output`` is that of another format, or ``allow_hard_reset`` is given for a format whose
        neurons are those of the network.
    PlatformError
        If the package that the format needs is not installed.
    """
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
    if allow_hard_reset and not chosen.resets_hard:
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


def rewritten(
    path: Path,
    output: Path | None,
    file_format: FileFormat,
    *,
    allow_hard_reset: bool = False,
    overwrite: bool = False,
    verify: bool = True,
) -> Rewritten:
    """Write the network of the netx file at ``path`` in another format, by default next to it."""
    require_file_format(file_format, allow_hard_reset, output)
    to = path.with_suffix(FORMATS[file_format].suffix) if output is None else output
    require_output(to, overwrite, path)
    network = netx.read(path)
    no_images = np.zeros((0, *network.input_shape), np.uint8)
    written = FORMATS[file_format].write(network, to, Job(None, no_images, allow_hard_reset, overwrite, verify, "cpu"))
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
            difference = first_difference(written, meant, first_image=first)
            if difference:
                path.unlink()
                raise VerificationError(f"{NOT_THE_SAME}: {difference}", where=path)
    return len(images)
