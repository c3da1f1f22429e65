"""What the user sees: text on stdout and notes on stderr that never fail loudly, tables, JSON, results in words."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from loihi_convert.errors import PlatformError, escape_control, with_flags

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.pipeline import CheckReport, DiagnosisReport, ExportResult, FileRun, RunFolder
    from loihi_convert.report.table import Table


def echo(text: str) -> None:
    """Print ``text`` on stdout, now: what goes wrong there is found out here, not at the interpreter's exit.

    If the reader has gone, as with ``| head``, the program ends as others do.
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
    """Print ``message`` on stderr, with control characters escaped; a closed stderr is not an error."""
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
            echo(f"note: {_with_flags(remark, 'export')}")
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


def _with_flags(text: str, *verbs: str) -> str:
    """``text`` with its parameters as the flags of ``verbs``."""
    from loihi_convert.cli import flags

    return with_flags(text, {name: flag for verb in verbs for name, flag in flags([verb]).items()})


def say_checked(checked: CheckReport) -> None:
    """Print what each layer takes, then one line for each finding, the worst first, and a verdict."""
    from loihi_convert.pipeline.checking import CAN_SPIKE
    from loihi_convert.report.conversion_tables import obstacle_table, resource_table

    if checked.chips is not None:
        say_tables([resource_table(checked.chips)])
    if obstacles := [finding for finding in checked.findings if finding.rule == CAN_SPIKE]:
        say_tables([obstacle_table(obstacles, checked.path.name)])
    for finding in checked.findings:
        if finding in obstacles:
            continue
        echo(_with_flags(finding.line, "export", "check"))
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
            "relay_shared": chips.relay_shared_cores,
            "relay_expanded": chips.relay_expanded_cores,
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
        advice = "; their classes are not reliable, export it for this T, or with fewer --pixel-bits" if wrapped else ""
        log(
            f"{ran.path.name}: stock neurons; u wrapped on {wrapped:,} of {ran.evaluation.image_count:,} images{advice}"
        )
    if ran.result.measured:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in ran.result.measured.items())
        log(f"{ran.path.name}: Lava's profiler, in s, J and W, for all steps of the run: {figures}")
    for remark in (_without_cnn(ran, arch), _without_labels(ran), _one_class(ran)):
        if remark:
            log(f"{ran.path.name}: {remark}")


def _without_cnn(ran: FileRun, arch: str | None) -> str:
    """What keeps a run from being compared with the CNN, and what to do; empty where it was compared."""
    if ran.evaluation.is_compared_with_cnn:
        return ""
    recorded = ran.network.provenance.model
    named = recorded.arch
    if named is not None and arch is None:
        return f"pass --arch {shlex.quote(named)} to import and run that code, for the CNN's figures"
    return f"its CNN ({recorded.file or 'not named'}) is not beside it, or changed; pass --model for its figures"


def _without_labels(ran: FileRun) -> str:
    """What is compared where accuracy, or the error, is not known; empty where it is."""
    evaluation = ran.evaluation
    if evaluation.is_judged:
        return ""
    if evaluation.regression is not None:
        known = "only that against the CNN's outputs is" if evaluation.is_compared_with_cnn else "nothing is compared"
        return f"the images have no targets, so the error is not known; {known}"
    known = "only its agreement with the CNN is" if evaluation.is_compared_with_cnn else "nothing is compared"
    return f"the images have no labels, so accuracy is not known; {known}"


def _one_class(ran: FileRun) -> str:
    """A warning where agreement says nothing, because every image gets the same class; empty elsewhere."""
    classes = ran.result.predictions[:, ran.evaluation.nominal_point.timesteps - 1]
    if ran.network.task == "classification" and len(classes) > 1 and (classes == classes[0]).all():
        return f"every image gets class {classes[0]}; accuracy and agreement say little on such images"
    return ""


def say_run(done: RunFolder, *, trace: bool, arch: str | None, as_json: bool) -> None:
    """Print the figures of a run, as tables or as JSON, and where they are written."""
    for ran in done.runs:
        note_run(ran, trace=trace, arch=arch)
    if as_json:
        from loihi_convert.runs.run_folder import results_json

        echo(results_json(done.figures))
    else:
        from loihi_convert.report import run_tables as tables

        if len(done.runs) > 1:
            shown = [tables.per_t_table(done.figures)]
        else:
            ((_, figures),) = done.figures
            shown = [tables.accuracy_table(figures), tables.layer_table(figures)]
        more = (tables.early_exit_table(done.figures), tables.energy_table(done.figures))
        say_tables([*shown, *(table for table in more if table is not None)])
    log(f"wrote {done.folder}/ ({', '.join(path.name for path in done.files)})")


def _silence(stream: TextIO) -> None:
    # What is left in its buffer would be written, and fail, again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
