"""`loihi-convert run` of a netx file that another tool wrote."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert.cli.console import Fact, log, say_answer
from loihi_convert.cli.run_output import RunScene, say_details, say_results
from loihi_convert.errors import UsageError

if TYPE_CHECKING:
    from loihi_convert.cli.options import Normalization
    from loihi_convert.data import Dataset, DataSplits
    from loihi_convert.external.cuba import CubaNetwork
    from loihi_convert.ir.graded import GradedNetwork
    from loihi_convert.pipeline.external_run import ExternalRun
    from loihi_convert.pipeline.options import RunOptions


def run_external(
    output: Path | None,
    paths: Sequence[Path],
    network: CubaNetwork | GradedNetwork,
    splits: DataSplits,
    images: Dataset,
    options: RunOptions,
    normalization: Normalization,
    given: Mapping[str, object],
    *,
    is_stream: bool,
    started: float,
    as_json: bool,
    details: bool,
) -> None:
    """Run the only file of ``paths``, which contains ``network``, on `ref`.

    ``given`` are options that such files do not support. ``is_stream`` is for graded spikes.
    ``started`` is the time of the monotonic clock when the command started.

    Raises
    ------
    UsageError
        If there are several files, or an unsupported option was given.
    """
    from loihi_convert import pipeline
    from loihi_convert.progress import progress_bar

    _refuse(paths, {**given, "trace": options.trace, "float_snn": options.float_snn})
    ran = pipeline.run_external_into_folder(
        output,
        paths[0],
        network,
        splits,
        images,
        timesteps=options.timesteps,
        is_stream=is_stream,
        mean=normalization.mean,
        std=normalization.std,
        command_line=sys.argv,
        bars=progress_bar,
    )
    scene = RunScene(splits.name, "ref", time.monotonic() - started)
    pixels = _pixels(ran, is_default=normalization.mean is None)
    _say(ran, paths[0], scene, pixels, as_json=as_json, details=details)


def _refuse(paths: Sequence[Path], given: Mapping[str, object]) -> None:
    if len(paths) > 1:
        raise UsageError("another tool wrote it", where=paths[0], hint="Run such a file alone.")
    for name, value in given.items():
        if value:
            found = f"given, but another tool wrote {paths[0]}"
            raise UsageError(found, where=name, expected="must be left out: such a file runs on ref")


def _pixels(ran: ExternalRun, *, is_default: bool) -> list[Fact]:
    """How pixels enter: ``as (x - 0.5) / 0.5``; nothing for a network without input neurons."""
    if ran.mean is None or ran.std is None:
        return []
    means, stds = (", ".join(f"{number:g}" for number in numbers) for numbers in (ran.mean, ran.std))
    mean, std = (f"({text})" if "," in text else text for text in (means, stds))
    origin = " (default; --mean and --std for others)" if is_default else ""
    return [Fact("pixels", f"as (x - {mean}) / {std} with x = pixel / 255{origin}")]


def _say(
    ran: ExternalRun, path: Path, scene: RunScene, pixels: Sequence[Fact], *, as_json: bool, details: bool
) -> None:
    from loihi_convert.external.cuba import CubaNetwork

    kind = "CUBA" if isinstance(ran.network, CubaNetwork) else "sigma-delta"
    log(f"{path.name}: another tool wrote it; its {kind} neurons run as in Lava, without early exit")
    if as_json:
        say_results([(path, ran.evaluation, pixels)], ran.folder, ran.files)
        return
    from loihi_convert.cli import run_summary
    from loihi_convert.report.run_tables import accuracy_table

    figures = [(path.name, ran.evaluation)]
    say_answer(
        run_summary.verdict(figures, scene.data),
        [scene.line([ran.evaluation])],
        run_summary.table(figures),
        [*pixels, *run_summary.facts(ran.evaluation), Fact("saved", f"{ran.folder}/")],
    )
    if details:
        say_details(figures, accuracy_table(ran.evaluation, is_balanced=False))
