"""What the user sees: text on stdout and notes on stderr that never fail loudly, tables, JSON, results in words."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from loihi_convert.errors import PlatformError, escape_control

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.pipeline import CheckReport, DiagnosisReport, ExportResult, FileRun
    from loihi_convert.report.table import Table


def echo(text: str) -> None:
    """Print ``text`` on stdout, now: what goes wrong there is found out here, not at the interpreter's exit.

    Where nobody reads on, as in ``| head``, the program ends as any other does there.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise PlatformError(
            f"stdout: cannot be written ({error.strerror}); files named above or by -o are complete. Send it elsewhere."
        ) from error


def log(message: str) -> None:
    """Print ``message`` on stderr, with what a terminal would obey written out; that nobody reads it is no failure."""
    try:
        print("\n".join(map(escape_control, message.split("\n"))), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def say_json(value: dict[str, Any]) -> None:
    """Print ``value`` on stdout as one JSON object."""
    echo(json.dumps(value, indent=2, sort_keys=True))


def say_tables(tables: Sequence[Table]) -> None:
    """Print ``tables`` on stdout, as wide as the terminal, or 110 columns where there is none."""
    from rich.console import Console

    # None where the caller has closed it.
    console = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else 110)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    echo(capture.get().removesuffix("\n"))


def say_exported(exported: Sequence[ExportResult]) -> None:
    """Print what was rounded, clipped and written, file by file."""
    from loihi_convert.report.conversion_tables import quantization_table

    for item in exported:
        say_tables([quantization_table(item.report)])
        for remark in item.notes:
            echo(f"note: {remark}")
        verified = f"verified on {item.verified_images} images, every layer" if item.verified_images else "not verified"
        echo(f"wrote {item.path} ({item.path.stat().st_size:,} bytes; {verified})")


def exported_json(item: ExportResult) -> dict[str, Any]:
    """Return what `say_exported` says of one file, and its digest and provenance, as JSON."""
    from dataclasses import asdict

    from loihi_convert.files import sha256

    return {
        "file": str(item.path),
        "sha256": sha256(item.path),
        "target": item.network.target,
        "account": asdict(item.report),
        "notes": item.notes,
        "verified_images": item.verified_images,
        "agreement": asdict(item.agreement),
        "provenance": dict(item.network.provenance),
    }


def say_diagnosed(diagnosed: DiagnosisReport) -> None:
    """Print where the accuracy went, what to try, and what else to know."""
    from loihi_convert.metrics.advice import verdict
    from loihi_convert.report.diagnosis_tables import cause_table, divergence_table

    say_tables([cause_table(diagnosed.diagnosis), divergence_table(diagnosed.diagnosis)])
    echo(verdict(diagnosed.diagnosis))
    for sentence in diagnosed.advice:
        echo(f"- {sentence}")


def diagnosed_json(diagnosed: DiagnosisReport) -> dict[str, Any]:
    """Return the same as JSON."""
    from loihi_convert.metrics.advice import verdict

    return {
        **diagnosed.diagnosis.model_dump(),
        "file": str(diagnosed.path),
        "verdict": verdict(diagnosed.diagnosis),
        "advice": diagnosed.advice,
        "notes": diagnosed.notes,
        "equal_on_lava": diagnosed.equal_on_lava,
    }


def say_checked(checked: CheckReport) -> None:
    """Print what each layer takes, then one line for each finding, the worst first, and a verdict."""
    from loihi_convert.report.conversion_tables import resource_table

    if checked.chips is not None:
        say_tables([resource_table(checked.chips)])
    for finding in checked.findings:
        echo(finding.line)
    echo(checked.verdict)


def checked_json(checked: CheckReport) -> dict[str, Any]:
    """Return the same as JSON."""
    chips = checked.chips
    return {
        "file": str(checked.path),
        "target": checked.target,
        "timesteps": checked.timesteps,
        "image_count": checked.image_count,
        "is_usable": checked.is_usable,
        "findings": [finding.model_dump() for finding in checked.findings],
        "layers": [] if chips is None else [layer.model_dump() for layer in chips.layers],
        "neurocores": None
        if chips is None
        else {
            "shared": chips.shared_cores,
            "expanded": chips.expanded_cores,
            "available": chips.cores,
            "boundary": chips.boundary,
        },
    }


def trained_sentence(output: Path, checkpoint: Checkpoint) -> str:
    """Return what was trained, how well, and where it lies."""
    validation, test = 100 * checkpoint.validation_accuracy, 100 * checkpoint.test_accuracy
    return (
        f"wrote {output}: {checkpoint.architecture}, seed {checkpoint.seed}, validation accuracy {validation:.2f} %, "
        f"test accuracy {test:.2f} %"
    )


def note_run(ran: FileRun, *, trace: bool, arch: str | None) -> None:
    """Say how a run compares with `ref`, and what keeps it from being compared with the CNN."""
    if ran.equal_to_reference:
        layers = "every layer" if trace else "every output potential and spike count"
        log(f"{ran.path.name}: {layers} of {ran.equal_to_reference} images equal to ref at every step, error 0")
    if (wrapped := ran.evaluation.wrapped_images) is not None:
        advice = "; their classes mean little, export it for this T, or with fewer --pixel-bits" if wrapped else ""
        log(
            f"{ran.path.name}: stock neurons; u wrapped on {wrapped:,} of {ran.evaluation.image_count:,} images{advice}"
        )
    if ran.result.measured:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in ran.result.measured.items())
        log(f"{ran.path.name}: Lava's profiler, in s, J and W, for all steps of the run: {figures}")
    if ran.evaluation.cnn_accuracy is None:
        model = ran.network.provenance.get("model", {})
        named = model.get("arch")
        if named is not None and arch is None:
            log(f"{ran.path.name}: pass --arch {named} to import and run that code, for the CNN's figures")
        else:
            file = model.get("file", "not named")
            log(f"{ran.path.name}: its CNN ({file}) is not beside it, or changed; pass --model for its figures")


def _silence(stream: TextIO) -> None:
    # What is left in its buffer would be written, and fail, again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
