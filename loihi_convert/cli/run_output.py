"""Output of a run: the answer, all tables with ``--details``; or JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from loihi_convert.cli.console import Fact, echo, log, say_answer, say_tables, told_once
from loihi_convert.ground.choices import DatasetName

if TYPE_CHECKING:
    from loihi_convert.external import AnyNetwork
    from loihi_convert.ir.graded import GradedNetwork
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.metrics.evaluation import Evaluation
    from loihi_convert.pipeline.run_results import FileRun, RunFolder
    from loihi_convert.report.run_tables import Figures

_BACKENDS = {"ref": "exact integers (ref)", "sim": "Lava's CPU simulator (sim)", "loihi2": "Loihi 2 (loihi2)"}


@dataclass(frozen=True)
class RunScene:
    """The context of a run, for its answer.

    Parameters
    ----------
    data
        Name of the data set.
    backend
        Name of the backend.
    seconds
        Wall-clock time of the whole command so far.
    trace
        Whether every layer was recorded and compared.
    arch
        The user's code for the CNN.
    no_early_exit
        Why early exit was not evaluated; empty if it was, or was not asked for.
    """

    data: str
    backend: str
    seconds: float
    trace: bool = False
    arch: str | None = None
    no_early_exit: str = ""

    def line(self, evaluations: Sequence[Evaluation], remark: str = "") -> str:
        """Return the number of images, the backend, and the duration."""
        count, seconds = evaluations[0].image_count, sum(evaluation.seconds for evaluation in evaluations)
        kind = "test image" if self.data in get_args(DatasetName) else "image"
        images = f"{count:,} {kind}{'' if count == 1 else 's'}"
        return f"{images}, {_BACKENDS[self.backend]}{remark}: {seconds:.1f} s, {self.seconds:.0f} s in all"


def say_run(
    done: RunFolder[QuantizedNetwork],
    scene: RunScene,
    *,
    as_json: bool,
    details: bool,
    next_steps: Sequence[Fact] = (),
) -> None:
    """Print the answer of a run, or its results as JSON, and the folder they are written to, if ``done`` has files.

    ``next_steps`` are the last lines; by default they suggest the report and ``--details``.
    """
    missing = [Fact("early exit", scene.no_early_exit)] if scene.no_early_exit else []
    if as_json:
        for fact in missing:
            log(f"{fact.label}: {fact.text}")
        _say_results(done, [remarks(ran, scene) for ran in done.runs])
        return
    more = "layers, intervals, early exit, energy at each T"
    facts = [*missing, *_facts(done, scene), *_closing(done, more, next_steps, details=details)]
    seed = done.runs[0].network.poisson_seed
    _say_figures(done, scene, facts, "" if seed is None else f", Poisson input (seed {seed})")
    if details:
        _say_details(done.figures)


def say_single(
    done: RunFolder[AnyNetwork], scene: RunScene, facts: Sequence[Fact], *, as_json: bool, details: bool
) -> None:
    """Print the answer of the run of one file, with ``facts`` about it, or its results as JSON, as `say_run`."""
    from loihi_convert.cli import run_summary

    if as_json:
        _say_results(done, [facts])
        return
    closing = _closing(done, "layers, intervals", details=details)
    _say_figures(done, scene, [*facts, *run_summary.facts(done.runs[0].evaluation), *closing])
    if details:
        # Graded spikes have no thresholds, and other tools do not record how theirs were balanced.
        _say_details(done.figures)


def _say_figures(done: RunFolder[AnyNetwork], scene: RunScene, facts: Iterable[Fact], remark: str = "") -> None:
    """Print verdict, what makes it doubtful, the table, and ``facts``; ``remark`` is as in `RunScene.line`."""
    from loihi_convert.cli import run_summary

    figures = [(ran.path.name, ran.evaluation) for ran in done.runs]
    doubts = run_summary.doubts(figures)
    say_answer(
        run_summary.verdict(figures, scene.data),
        [*(f"warning: {doubt}" for doubt in doubts), scene.line([evaluation for _, evaluation in figures], remark)],
        run_summary.table(figures),
        [fact for fact in facts if fact.text not in doubts],
    )


def _closing(done: RunFolder[AnyNetwork], more: str, next_steps: Sequence[Fact] = (), *, details: bool) -> list[Fact]:
    """Return the place of the results, if written, and what to do with them; ``more`` is what ``--details`` prints."""
    if not done.files:
        return []
    usual = [Fact("next", f"loihi-convert report {shlex.quote(str(done.folder))}")]
    usual += [] if details else [Fact("", f"--details: {more}")]
    return [Fact("saved", f"{done.folder}/"), *(next_steps or usual)]


def _say_results(done: RunFolder[AnyNetwork], facts: Sequence[Iterable[Fact]]) -> None:
    """Print the results of each file as JSON; on stderr, the ``facts`` about it, warnings, and what was written."""
    from loihi_convert.cli.run_summary import warnings
    from loihi_convert.runs.run_folder import results_json

    for ran, about in zip(done.runs, facts, strict=True):
        for fact in (*about, *warnings(ran.evaluation)):
            log(f"{ran.path.name}: {fact.label}: {fact.text}")
    echo(results_json(done.figures))
    if done.files:
        log(f"wrote {done.folder}/ ({', '.join(path.name for path in done.files)})")


def _say_details(figures: Figures) -> None:
    """Print every table of a run."""
    from loihi_convert.report import run_tables as tables

    if len(figures) > 1:
        shown = [tables.per_t_table(figures)]
    else:
        ((_, evaluation),) = figures
        shown = [tables.accuracy_table(evaluation), tables.layer_table(evaluation)]
    more = (tables.early_exit_table(figures), tables.energy_table(figures))
    echo("")
    say_tables([*shown, *(table for table in more if table is not None)])


def _facts(done: RunFolder[QuantizedNetwork], scene: RunScene) -> Iterator[Fact]:
    """Return the facts about each file; for several files, only the facts that differ."""
    from loihi_convert.cli import run_summary

    if len(done.runs) == 1:
        (ran,) = done.runs
        yield from remarks(ran, scene)
        yield from run_summary.facts(ran.evaluation)
        return
    every = (
        (ran.path.name, fact)
        for ran in done.runs
        for fact in (*remarks(ran, scene), *run_summary.warnings(ran.evaluation))
    )
    yield from told_once(every, len(done.runs))


def remarks(ran: FileRun[QuantizedNetwork | GradedNetwork], scene: RunScene) -> Iterator[Fact]:
    """Return how a run compares with `ref`, and why it cannot be compared with the CNN."""
    from loihi_convert.ir.graded import GradedNetwork

    if ran.equal_to_reference:
        what = "every potential and spike of every layer" if scene.trace else "every output potential and spike count"
        images = f"all {ran.equal_to_reference:,} images at every step"
        if isinstance(ran.network, GradedNetwork):
            # An image takes one step.
            what, images = "every message and activation of every layer", images.removesuffix(" at every step")
        runner = "Loihi 2" if scene.backend == "loihi2" else "Lava"
        yield Fact("equal", f"{runner} equals ref in {what}, {images}")
    if ran.result.measured:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in ran.result.measured.items())
        yield Fact("profiler", f"all steps of the run, in s, J and W: {figures}")
    if not ran.evaluation.is_compared_with_cnn:
        yield Fact("no CNN", _without_cnn(ran, scene.arch))
    if not ran.evaluation.is_judged:
        yield Fact("no targets" if ran.evaluation.regression else "no labels", _without_labels(ran))
    point = ran.evaluation.nominal_point
    classes = ran.result.predictions[:, point.timesteps - 1]
    is_constant = ran.network.task == "classification" and len(classes) > 1 and (classes == classes[0]).all()
    # If the CNN's classes or the labels are the same, a note says that.
    if is_constant and 1 not in (point.accuracy, point.agreement_with_cnn):
        yield Fact("warning", f"every image gets class {classes[0]}; accuracy and agreement carry little information")


def _without_cnn(ran: FileRun[QuantizedNetwork | GradedNetwork], arch: str | None) -> str:
    """Return why a run cannot be compared with the CNN, and what to do."""
    recorded = ran.network.provenance.model
    if recorded.arch is not None and arch is None:
        return f"pass --arch {shlex.quote(recorded.arch)} to import and run that code and compare with the CNN"
    if recorded.file is None:
        return "the file does not record its checkpoint; pass --model to compare with the CNN"
    return f"{recorded.file} is not in the folder of the file, or has changed; pass --model to compare with the CNN"


def _without_labels(ran: FileRun[AnyNetwork]) -> str:
    """Return a sentence on what is compared if accuracy, or the error, is unknown."""
    is_regression = ran.evaluation.regression is not None
    missing = "targets, so the error is" if is_regression else "labels, so accuracy is"
    if not ran.evaluation.is_compared_with_cnn:
        known = "nothing is compared"
    else:
        known = "only the error to the CNN is known" if is_regression else "only the agreement with the CNN is known"
    return f"the images have no {missing} unknown; {known}"
