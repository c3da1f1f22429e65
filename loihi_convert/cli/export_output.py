"""Output of an export: each file's agreement with the CNN, warnings, every layer with ``--details``; or JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loihi_convert.cli.console import Fact, aligned, echo, flagged, say_answer, say_tables, told_once
from loihi_convert.cli.flags import option_words

if TYPE_CHECKING:
    from loihi_convert.conversion.quantization_report import QuantizationReport
    from loihi_convert.nir.write import NirFile
    from loihi_convert.pipeline.exporting import ExportResult
    from loihi_convert.pipeline.graded import GradedExport
    from loihi_convert.report.table import Table

GOOD_AGREEMENT: Final = 0.98
"""From here on, potentials that clip on some images cost nothing that is worth a line."""


class NextRun(NamedTuple):
    """How to run an exported file.

    Parameters
    ----------
    words
        The options that `run` needs, as it cannot find them in the file, without images.
    images
        Its ``--data``; None: the images that the file names.
    calibrated_on
        The user's calibration images, if ``images`` only stands for others.
    """

    words: Sequence[str] = ()
    images: str | None = None
    calibrated_on: str | None = None

    def facts(self, paths: Iterable[Path]) -> list[Fact]:
        """Return the command for the files at ``paths``, and which images it needs."""
        command = ["loihi-convert", "run", *map(str, paths), *option_words({"--data": self.images}), *self.words]
        found = [Fact("next", shlex.join(command))]
        if self.calibrated_on is not None:
            found.append(Fact("", f"{self.images}: other images than {self.calibrated_on}, which it was calibrated on"))
        return found


def say_exported(exported: Sequence[ExportResult], next_run: NextRun, *, details: bool) -> None:
    """Print one line per file, possible causes of accuracy loss, and the next steps."""
    from loihi_convert.report.conversion_tables import quantization_table

    closing = [] if details else [Fact("", "--details: weight bits, thresholds and clipping of each layer")]
    is_nir = exported[0].file_format == "nir"
    following = [] if is_nir else next_run.facts(item.path for item in exported)
    facts = [*told_once(_facts(exported), len(exported)), *following, *closing]
    if len(exported) == 1:
        (item,) = exported
        size = f"{item.path.stat().st_size:,} bytes"
        say_answer(
            f"wrote {item.path}: T = {item.network.timesteps}, {_agreement(item)}",
            [", ".join((size, item.network.provenance.method, _verified(item)))],
            [],
            facts,
        )
    else:
        count = exported[0].agreement.image_count
        is_regression = exported[0].network.task == "regression"
        measure = "share of the variance of the CNN's outputs explained" if is_regression else "agreement with the CNN"
        say_answer(
            f"wrote {len(exported)} files; {measure} on {count:,} calibration images",
            [f"each {_verified(exported[0])}"],
            _lines(exported),
            facts,
        )
    for item in exported if details else ():
        echo(f"\n{item.path}")
        say_tables([quantization_table(item.report)])


def say_rewritten(file: NirFile, *, as_json: bool) -> None:
    """Print what a NIR file made from a netx file holds; or JSON."""
    from loihi_convert.cli.console import say_json
    from loihi_convert.ground.files import sha256

    if as_json:
        say_json({"files": [{"file": str(file.path), "sha256": sha256(file.path), "notes": file.notes}]})
        return
    size = f"{file.path.stat().st_size:,} bytes"
    notes = [Fact("note", flagged(note, "export")) for note in file.notes]
    say_answer(f"wrote {file.path}: {file.network.summary}", [size], [], notes)


def _agreement(item: ExportResult | GradedExport) -> str:
    from loihi_convert.conversion.agreement import measure_of

    count = item.agreement.image_count
    images = f"{count:,} calibration image{'' if count == 1 else 's'}"
    return measure_of(item.network.task).words(item.agreement.agreement, "the CNN", images)


def _verified(item: ExportResult) -> str:
    return "every number read back and compared" if item.is_read_back else _compared(item.verified_images)


def _compared(image_count: int) -> str:
    return f"verified on {image_count} images, every layer" if image_count else "not verified"


def _lines(exported: Sequence[ExportResult]) -> list[str]:
    """Return one line per file."""
    from loihi_convert.conversion.agreement import measure_of

    cells = [("T", "agreement", "method", "file", "bytes")]
    for item in exported:
        percent = measure_of(item.network.task).percent(item.agreement.agreement)
        size = f"{item.path.stat().st_size:,}"
        cells.append((str(item.network.timesteps), percent, item.network.provenance.method, str(item.path), size))
    return aligned(cells, (2, 3))


def _facts(exported: Sequence[ExportResult]) -> Iterator[tuple[str, Fact]]:
    """Yield possible causes of accuracy loss, and notes, each with the T of its file."""
    from loihi_convert.checks.lava_dl import lava_dl_findings
    from loihi_convert.conversion.flow import CHOICE_NOTE

    for item in exported:
        when = f"T = {item.network.timesteps}"
        yield from ((when, fact) for fact in _ranges(item.report, item.agreement.agreement))
        notes = (note for note in item.notes if not note.startswith(CHOICE_NOTE))
        yield from ((when, Fact("note", flagged(note, "export"))) for note in notes)
        if item.file_format == "netx":
            found = lava_dl_findings(item.network, item.lava_dl, "lava")
            yield from ((when, Fact(finding.severity, flagged(finding.text, "export"))) for finding in found)


def _ranges(report: QuantizationReport, agreement: float) -> Iterator[Fact]:
    """Return the layers whose potentials leave their range: always for a chip, else if agreement may be affected."""
    from loihi_convert.ir.network import layer_words

    if report.target == "loihi2":
        proven = [layer.name for layer in report.layers if layer.is_proven]
        wrapped = [layer.name for layer in report.layers if layer.low_clipped or layer.high_clipped]
        held = [layer.name for layer in report.layers if layer.name not in (*proven, *wrapped)]
        states = (
            (proven, "cannot wrap in {layers} (proven for any image)"),
            (held, f"did not wrap in {{layers}} on {report.image_count:,} calibration images"),
        )
        known = "; ".join(text.format(layers=", ".join(map(layer_words, layers))) for layers, text in states if layers)
        yield Fact("chip", f"target loihi2, pixels of {report.pixel_bits} bits" + (f"; u {known}" if known else ""))
        if wrapped:
            yield Fact(
                "warning",
                f"u wraps in {', '.join(map(layer_words, wrapped))} on calibration images; classes may be wrong",
            )
        return
    clipped = [
        f"{layer_words(layer.name)} ({layer.harmful_clips:,} images)" for layer in report.layers if layer.harmful_clips
    ]
    if clipped and agreement < GOOD_AGREEMENT:
        yield Fact(
            "clipped",
            f"potentials in {', '.join(clipped)} of {report.image_count:,}; `diagnose` measures what this costs a "
            "classification.",
        )


def exported_json(item: ExportResult) -> dict[str, Any]:
    """Return one file's digest, results, notes and provenance as JSON."""
    by_lava_dl = None if item.lava_dl is None else item.lava_dl.model_dump()
    return {
        **_file_json(item),
        "target": item.network.target,
        "account": asdict(item.report),
        "lava_dl": by_lava_dl,
    }


def say_graded_export(item: GradedExport, next_run: NextRun, *, details: bool) -> None:
    """Print the written file, its agreement with the CNN, and the next step."""
    from loihi_convert.ir.network import layer_words

    depth = len(item.network.layers) - 1
    least = min(item.layers, key=lambda layer: layer.weight_bits)
    facts = [
        Fact("graded", f"one step of each layer for an image; the output is there {depth} steps after the input"),
        Fact("bits", f"weights use {least.weight_bits:.1f} bits or more (fewest in {layer_words(least.name)})"),
        Fact("load", f"unmodified lava-dl: netx.hdf5.Network({str(item.path)!r}, spike_exp={item.network.spike_exp})"),
        *(Fact("note", flagged(note, "export")) for note in item.notes),
        *next_run.facts([item.path]),
        *([] if details else [Fact("", "--details: weight bits and largest message of each layer")]),
    ]
    size = f"{item.path.stat().st_size:,} bytes"
    below = f"{size}, {_compared(item.verified_images)}"
    say_answer(f"wrote {item.path}: graded spikes, {_agreement(item)}", [below], [], facts)
    if details:
        say_tables([_layer_table(item)])


def _layer_table(item: GradedExport) -> Table:
    from loihi_convert.report.table import table_of

    rows = [
        {
            "layer": layer.name,
            "weight\nbits": f"{layer.weight_bits:.1f}",
            "largest\nmessage": f"{layer.largest_message:,}" if layer.largest_message else None,
        }
        for layer in item.layers
    ]
    caption = f"messages on {item.agreement.image_count:,} calibration images"
    return table_of(rows, words=("layer",), caption=caption)


def graded_json(item: GradedExport) -> dict[str, Any]:
    """Return the file's digest, its layers, notes and provenance as JSON."""
    layers = [asdict(layer) for layer in item.layers]
    return {**_file_json(item), "spikes": "graded", "spike_exp": item.network.spike_exp, "layers": layers}


def _file_json(item: ExportResult | GradedExport) -> dict[str, Any]:
    from loihi_convert.ground.files import sha256

    return {
        "file": str(item.path),
        "sha256": sha256(item.path),
        "notes": item.notes,
        "verified_images": item.verified_images,
        "agreement": asdict(item.agreement),
        "provenance": dict(item.network.provenance),
    }
