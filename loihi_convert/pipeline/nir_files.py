"""Networks as NIR files: what a reader of the file must know, and a netx file written again as NIR."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from loihi_convert import netx, nir
from loihi_convert.choices import FileFormat
from loihi_convert.conversion.quantization_report import QuantizationReport
from loihi_convert.errors import UsageError
from loihi_convert.file_kinds import NIR
from loihi_convert.files import refuse_to_overwrite, refuse_to_replace, require_writable
from loihi_convert.frontend.from_nir.package import nir_package
from loihi_convert.ir.quantized import QuantizedNetwork

_LOOP: Final = (
    "NIR has no soft reset, so each layer of neurons is a loop I -> Threshold -> Scale(-threshold) -> I. Readers "
    "without these nodes refuse the file. For readers that know only IF, convert with `reset='hard'`."
)
_DROPPED: Final = (
    "`allow_hard_reset`: NIR's IF neurons start at 0 and reset to 0, so this file is another network, without the soft "
    "reset and the initial potentials that its thresholds were balanced for. `reset='hard'` balances for IF neurons."
)
_NO_CLIPPING: Final = "Potentials clip at +-131071 on Loihi and not in NIR"


class NirFile(NamedTuple):
    """A NIR file made from a netx file: its path, its network, and notes for the user."""

    path: Path
    network: QuantizedNetwork
    notes: tuple[str, ...]


def require_format(file_format: FileFormat, allow_hard_reset: bool, output: Path | None) -> None:
    """Raise an error if the format does not fit the options or the output's suffix; called before any work.

    Raises
    ------
    UsageError
        If the suffix of ``output`` is that of another format, or ``allow_hard_reset`` is given for a netx file.
    PlatformError
        If a NIR file is asked for and the package ``nir`` is not installed.
    """
    is_nir = file_format == "nir"
    if output is not None and is_nir != (output.suffix.lower() == NIR):
        raise UsageError(
            f"found {output.name}",
            where="output",
            expected=f"must end in {NIR} with `file_format='nir'`" if is_nir else f"must not end in {NIR}",
            hint="" if is_nir else "For a NIR file, pass `file_format='nir'`.",
        )
    if allow_hard_reset and not is_nir:
        raise UsageError(
            "given for a netx file",
            where="allow_hard_reset",
            expected="must come with `file_format='nir'`",
            hint="For netx files, `reset='hard'` balances the thresholds for hard reset.",
        )
    if is_nir:
        nir_package("`file_format='nir'` writes NIR files")


def nir_notes(
    network: QuantizedNetwork, allow_hard_reset: bool, report: QuantizationReport | None = None
) -> tuple[str, ...]:
    """Return what a reader of the NIR file of ``network`` must know, one sentence each.

    ``report`` says on how many calibration images potentials clip; None if unknown.
    """
    notes = []
    if network.reset == "soft":
        notes.append(_DROPPED if allow_hard_reset else _LOOP)
    # In the first layer a constant negative current never fires, clipped or not.
    clipped = [
        f"{layer.name} on {images:,}"
        for index, layer in enumerate(report.layers if report is not None else ())
        if (images := max(layer.high_clipped, layer.low_clipped if index else 0))
    ]
    if report is not None and clipped and report.target == "lava":
        notes.append(f"{_NO_CLIPPING}: {', '.join(clipped)} of {report.image_count:,} calibration images.")
    return tuple(notes)


def rewritten_as_nir(
    path: Path, output: Path | None, *, allow_hard_reset: bool = False, overwrite: bool = False, verify: bool = True
) -> NirFile:
    """Write the network of the netx file at ``path`` as a NIR file, by default next to it.

    Raises
    ------
    UsageError, PlatformError
        As in `require_format`, or if the output is the input.
    InputError
        If ``path`` cannot be read, or the output exists or cannot be written.
    UnsupportedModelError
        If a layer cannot be expressed.
    VerificationError
        If the file read back differs.
    """
    require_format("nir", allow_hard_reset, output)
    written = path.with_suffix(NIR) if output is None else output
    require_writable(written)
    refuse_to_replace(path, written)
    refuse_to_overwrite(written, overwrite)
    network = netx.read(path)
    nir.write(network, written, hard_reset=allow_hard_reset, overwrite=overwrite, verify=verify)
    return NirFile(written, network, nir_notes(network, allow_hard_reset))
