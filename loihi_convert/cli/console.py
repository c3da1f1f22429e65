"""What the user sees: text on stdout and notes on stderr that never fail loudly, tables, JSON, results in words."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from loihi_convert.errors import PlatformError, escape_control, with_flags

if TYPE_CHECKING:
    from rich.console import Console

    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.pipeline import CheckReport, DiagnosisReport, ExportResult
    from loihi_convert.report.table import Table


class Fact(NamedTuple):
    """A line of an answer: what it is about, and a sentence."""

    label: str
    text: str


LABEL_COLUMNS: Final = 10
"""Width of the labels of facts."""

_PLAIN: Final = str.maketrans(dict(zip("█─±µ²…▏▎▍▌▋▊▉", ("#", "-", "+-", "u", "^2", "...", *"    ###"), strict=True)))
"""What stands for a character that the encoding of the terminal does not have."""


def echo(text: str) -> None:
    """Print ``text`` on stdout, now: what goes wrong there is found out here, not at the interpreter's exit.

    If the reader has gone, as with ``| head``, the program ends as others do.
    """
    try:
        print(_encodable(text), flush=True)
    except OSError as error:
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise PlatformError(
            f"stdout: cannot be written ({error.strerror}); files named above or by -o are complete. Send it elsewhere."
        ) from error


def _encodable(text: str) -> str:
    """``text`` in characters that stdout can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    return text


def log(message: str) -> None:
    """Print ``message`` on stderr, with control characters escaped; a closed stderr is not an error."""
    try:
        print("\n".join(map(escape_control, message.split("\n"))), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def say_json(value: dict[str, Any]) -> None:
    """Print ``value`` on stdout as one JSON object."""
    echo(json.dumps(value, indent=2, sort_keys=True))


def say_answer(verdict: str, below: Sequence[str], table: Sequence[str], facts: Sequence[Fact]) -> None:
    """Print an answer on stdout: a sentence, lines below it, a table between empty lines, and facts.

    Sentences are wrapped at the width of the terminal, or at 110 columns; labels of facts have their own column.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = _console(Console)
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=LABEL_COLUMNS)
    grid.add_column()
    for fact in facts:
        grid.add_row(Text(fact.label, style="bold yellow" if fact.label == "warning" else "dim"), Text(fact.text))
    with console.capture() as capture:
        console.print(Text(verdict, style="bold"))
        for line in below:
            console.print(Text(line))
        if table:
            console.print()
            for line in table:
                # A line of a table that is too wide is folded by the terminal, not at a space.
                console.print(Text(line), no_wrap=True, overflow="ignore", crop=False)
        if facts:
            console.print()
            console.print(grid)
    echo("\n".join(line.rstrip() for line in capture.get().split("\n")).removesuffix("\n"))


def _console(kind: type[Console]) -> Console:
    """A console as wide as the terminal, or 110 columns where there is none; stdout is None where it is closed."""
    return kind(width=None if sys.stdout is not None and sys.stdout.isatty() else 110, highlight=False)


def say_tables(tables: Sequence[Table]) -> None:
    """Print ``tables`` on stdout, as wide as the terminal, or 110 columns where there is none."""
    from rich.console import Console

    console = _console(Console)
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
        f"test accuracy {test:.2f} %{_spiking_part(checkpoint)}"
    )


def _spiking_part(checkpoint: Checkpoint) -> str:
    """What its spiking network reaches, if that was trained."""
    found, timesteps = checkpoint.recipe.get("spiking_accuracy"), checkpoint.recipe.get("timesteps")
    if not isinstance(found, dict):
        return ""
    validation, test = (100 * float(str(found[name])) for name in ("validation", "test"))
    return f"; as a spiking network after {timesteps} steps: validation {validation:.2f} %, test {test:.2f} %"


def _silence(stream: TextIO) -> None:
    # What is left in its buffer would be written, and fail, again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
