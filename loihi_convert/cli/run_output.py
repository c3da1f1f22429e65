"""Output of a run: the answer, all tables with ``--details``; or JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, get_args

from loihi_convert.cli.console import Fact, aligned, echo, log, say_answer, say_tables, told_once
from loihi_convert.external import is_external
from loihi_convert.ground.choices import DatasetName
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.statistics import POOR_CNN, Z_SCORE
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import means
from loihi_convert.pipeline.options import CnnOptions, RunOptions
from loihi_convert.pipeline.running import FileRun, RunFolder
from loihi_convert.report.run_tables import (
    Figures,
    accuracy_table,
    early_exit_table,
    energy_table,
    layer_table,
    per_t_table,
    worst_output,
)
from loihi_convert.report.table import count, number, percent, points, quantity_range, r_squared, signed_points
from loihi_convert.runs.run_folder import results_json

BAR_CELLS: Final = 20
"""Characters of the longest bar."""

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_INTERVALS: Final = 4
"""Widths of the widest 95 % interval that a scale of bars covers at least."""


class Scale(NamedTuple):
    """The values at which a bar is empty and full."""

    low: float
    high: float

    def bar(self, value: float, *, line: bool = False) -> str:
        """Return the bar of ``value``, at most `BAR_CELLS` characters; a reference is drawn as a thin line."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else float(value > 0)
        eighths = round(8 * BAR_CELLS * min(max(share, 0.0), 1.0))
        full, rest = divmod(eighths, 8)
        return "─" * (full + (rest >= 4)) if line else "█" * full + _EIGHTHS[rest].strip()


def accuracy_scale(values: Sequence[float], widest_interval: float) -> Scale:
    """Return the scale of bars of fractions 0..1.

    With a scale from 0, bars of 99.2 and 99.5 % would look the same. So the scale ends at the largest value and begins
    one interval's width below the smallest. It covers at least `_INTERVALS` widths, so that a difference within chance
    is at most a quarter of a bar. The table shows the value at which bars begin.

    Parameters
    ----------
    values
        All drawn values, including those of the CNN.
    widest_interval
        Width of the widest 95 % interval of these values, 0..1.
    """
    high = max(values)
    low = min(min(values) - widest_interval, high - _INTERVALS * widest_interval)
    # Rounded down to a tenth of a percent, as shown in the table.
    return Scale(max(0.0, math.floor(1000 * low) / 1000), high)


_NOTABLE_POINTS: Final = 0.5
"""Points of accuracy by which early exit may miss its tolerance without a remark."""


def loss_margin(point: Point, image_count: int) -> float | None:
    """Return half the width of the 95 % interval of ``point.conversion_loss_points``, in points; None if unknown.

    CNN and file run on the same images. Let b be the number of images that only the CNN classifies correctly, and c the
    number that only the file does. The loss is (b - c) / N. Agresti and Min (Stat. Med. 24, 2005, 729) add 1/2 to each
    count, so that the margin does not vanish if few images show no difference::

        margin = z sqrt((b + c + 1) - (b - c)^2 / (N + 2)) / (N + 2)

    b + c is at most the number of images whose class differs from the CNN's; that number is used in its place.
    """
    if point.conversion_loss_points is None or point.agreement_with_cnn is None:
        return None
    other = (1 - point.agreement_with_cnn) * image_count
    lost = point.conversion_loss_points / 100 * image_count
    total = image_count + 2
    return 100 * Z_SCORE * math.sqrt(max(other + 1 - lost**2 / total, 0.0)) / total


def _last(evaluation: Evaluation) -> Point:
    """The point that answers for a file: at the largest T asked for, by default the file's own."""
    return evaluation.points[-1]


def verdict(figures: Figures, data: str) -> str:
    """Return the answer as one sentence."""
    if len(figures) > 1:
        return _verdict_of_several(figures, data)
    ((name, evaluation),) = figures
    return f"{name} on {data}: {_answer(evaluation)}"


def _answer(evaluation: Evaluation) -> str:
    point = _last(evaluation)
    at = f"at T = {point.timesteps}"
    if point.timesteps != evaluation.timesteps:
        # Balanced for it, or trained for it by another tool.
        at += f" (made for T = {evaluation.timesteps})"
    return _regression_verdict(evaluation, at) if evaluation.regression else _class_verdict(evaluation, at)


def _class_verdict(evaluation: Evaluation, at: str) -> str:
    point, cnn = _last(evaluation), evaluation.cnn_accuracy
    if point.accuracy is None:
        if point.agreement_with_cnn is None:
            return f"ran {at}; {_unknown(evaluation)}"
        return f"same class as the CNN on {percent(point.agreement_with_cnn)} % of images {at} (no labels)"
    answer = f"{percent(point.accuracy)} % {at}"
    if cnn is None or point.conversion_loss_points is None:
        return answer
    margin = loss_margin(point, evaluation.image_count)
    interval = "" if margin is None else f" ±{margin:.2f}"
    return f"{answer} (CNN {percent(cnn)} %, loss {points(point.conversion_loss_points)}{interval} points)"


def _regression_verdict(evaluation: Evaluation, at: str) -> str:
    regression = evaluation.regression
    assert regression is not None
    here = regression.at(_last(evaluation).timesteps)
    if here.to_targets is None:
        if here.to_cnn is None:
            return f"ran {at}; {_unknown(evaluation)}"
        return f"RMSE to the CNN {number(here.to_cnn.mean.rmse)} {at} (no targets)"
    r2 = r_squared(here.to_targets.mean.r2)
    beside = ([f"CNN {number(regression.cnn.mean.rmse)}"] if regression.cnn else []) + ([f"R² {r2}"] if r2 else [])
    answer = f"RMSE {number(here.to_targets.mean.rmse)} {at}"
    return f"{answer} ({', '.join(beside)})" if beside else answer


def _unknown(evaluation: Evaluation) -> str:
    what, missing = ("error", "targets") if evaluation.regression else ("accuracy", "labels")
    return f"{what} unknown (no {missing}, no CNN)"


def _verdict_of_several(figures: Figures, data: str) -> str:
    begin = f"{len(figures)} files on {data}"
    known = [(level, name, evaluation) for name, evaluation in figures if (level := _level(evaluation)) is not None]
    if not known:
        return f"{begin}: {_unknown(figures[0][1])}"
    _, name, best = max(known, key=lambda one: one[0])
    return f"{begin}, best: {name}, {_answer(best)}"


def _level(evaluation: Evaluation) -> float | None:
    """What makes a file the best: accuracy, else agreement with the CNN, or minus the RMSE; None if unknown."""
    point = _last(evaluation)
    if evaluation.regression is None:
        return point.agreement_with_cnn if point.accuracy is None else point.accuracy
    rmse, _ = _errors(evaluation, point)
    return None if rmse is None else -rmse


class _Row(NamedTuple):
    """One line of the table: words on the left, the value with its bar, numbers on the right by column, a mark."""

    words: tuple[str, ...]
    value: float | None
    numbers: dict[str, str]
    mark: str = ""


def figure_table(figures: Figures) -> list[str]:
    """Return the lines of the table: one file at each T, or each at its own T and the largest asked for; the CNN."""
    several, (first, *_) = len(figures) > 1, figures
    is_regression = any(e.regression for _, e in figures)
    is_judged = any(e.is_judged for _, e in figures)
    cnns = {name: cnn for name, e in figures if (cnn := e.cnn_rmse if is_regression else e.cnn_accuracy) is not None}
    has_own_cnns = several and len({*cnns.values()}) > 1

    def text(value: float | None) -> str:
        return "" if value is None else (number(value) or "") if is_regression else f"{percent(value)} %"

    rows, intervals = [], [0.0]
    shown = [(name, e, point) for name, e in figures for point in e.points]
    for name, e, point in shown:
        if several and point not in (e.nominal_point, _last(e)):
            continue
        value, numbers = point.accuracy if is_judged else point.agreement_with_cnn, {}
        if has_own_cnns:
            numbers["CNN"] = text(cnns.get(name))
        if is_regression:
            value, r2 = _errors(e, point)
            numbers["R²"] = r_squared(r2) or ""
        elif cnns:
            numbers["loss"] = signed_points(point.conversion_loss_points) or ""
        numbers["SynOps"] = count(point.synaptic_operations)
        is_own = point.timesteps == e.timesteps and len(e.points) > 1 and not several
        words = (name, str(point.timesteps)) if several else (str(point.timesteps),)
        rows.append(_Row(words, value, numbers, "<- this file's T" if is_own else ""))
        if point.accuracy_interval:
            low, high = point.accuracy_interval
            intervals.append(high - low)
    columns = list(rows[0].numbers)
    if cnns and not has_own_cnns:
        known = first[1].regression.cnn if first[1].regression else None
        r2_of_cnn = {"R²": r_squared(known.mean.r2) or ""} if known else {}
        words = ("CNN", "") if several else ("CNN",)
        rows.append(_Row(words, next(iter(cnns.values())), dict.fromkeys(columns, "") | r2_of_cnn))
    values = [row.value for row in rows if row.value is not None]
    head = ["file", "T"] if several else ["T"]
    left = {0} if several else set[int]()
    if not values:
        lines = [[*row.words, *row.numbers.values(), row.mark] for row in rows]
        return aligned([[*head, *columns, ""], *lines], {*left, len(head) + len(columns)})
    if is_regression:
        scale, name, start = Scale(0.0, max(values)), "RMSE" if is_judged else "to CNN", "bars from 0"
    else:
        scale = accuracy_scale(values, max(intervals) or (max(values) - min(values)) / _INTERVALS)
        name, start = "accuracy" if is_judged else "same as CNN", f"bars from {100 * scale.low:.1f} %"
    lines = [[*head, name, start.ljust(BAR_CELLS), *columns, ""]]
    for row in rows:
        bar = "" if row.value is None else scale.bar(row.value, line=row.words[0] == "CNN")
        lines.append([*row.words, text(row.value), bar, *row.numbers.values(), row.mark])
    # File names, bars and marks are left-aligned, numbers right-aligned.
    return aligned(lines, {*left, len(head) + 1, len(lines[0]) - 1})


def _errors(evaluation: Evaluation, point: Point) -> tuple[float | None, float | None]:
    """Return RMSE and R² at the T of ``point``: to the targets, else to the CNN."""
    at = evaluation.regression.at(point.timesteps) if evaluation.regression else None
    return means((at.to_targets or at.to_cnn) if at else None)


def figure_facts(evaluation: Evaluation) -> Iterator[Fact]:
    """Yield early exit and energy of one file, and the notes needed to read its results."""
    regression = evaluation.regression
    if regression is not None and len(regression.output_names) > 1:
        here = regression.at(_last(evaluation).timesteps)
        worst = worst_output(regression, here)
        counted = f"means over {len(regression.output_names)} outputs"
        yield Fact("errors", f"{counted}; {worst}" if worst else counted)
    if evaluation.early_exit is not None:
        yield Fact("early exit", _exit_sentence(evaluation.early_exit, _last(evaluation).accuracy))
    timesteps = _last(evaluation).timesteps
    if evaluation.energy is not None:
        one = next((one for one in evaluation.energy.estimates if one.timesteps == timesteps), None)
        if one is not None:
            joules = quantity_range(one.loihi1_joules, "J")
            yield Fact("energy", f"{joules} per image (estimate for Loihi 1, not measured)")
    yield from warnings(evaluation)


def doubts(figures: Figures) -> list[str]:
    """Return the notes that a CNN is not better than a constant answer, without which the verdict would mislead."""
    notes = ((name, Fact("", note)) for name, evaluation in figures for note in evaluation.notes)
    poor = ((name, fact) for name, fact in notes if fact.text.startswith(POOR_CNN))
    return [fact.text for fact in told_once(poor, len(figures))]


def warnings(evaluation: Evaluation) -> Iterator[Fact]:
    """Yield the reasons to doubt the results."""
    if evaluation.wrapped_images:
        yield Fact(
            "warning",
            f"u wrapped on {evaluation.wrapped_images:,} of {evaluation.image_count:,} images: their classes are not "
            "reliable. Calibrate on images like these (export --data), or export for a smaller -T, or with fewer "
            "--weight-bits.",
        )
    if evaluation.saturated_images:
        yield Fact(
            "warning",
            f"{evaluation.saturated_images:,} images reached the largest potential that Loihi holds; their outputs "
            "may be clipped.",
        )
    for note in evaluation.notes:
        yield Fact("note", note)


def _exit_sentence(early_exit: EarlyExit, last: float | None) -> str:
    """Return the results of early exit; ``last`` is the accuracy after all steps."""
    point = early_exit.chosen_point
    found = f"{point.average_timesteps:.2f} of {early_exit.choice.timesteps} steps on average: "
    if point.accuracy is None:
        found += f"same class as after all steps on {percent(point.agreement_with_last)} %"
    else:
        found += f"{percent(point.accuracy)} %"
    saved = early_exit.synaptic_operations_saved
    if saved is not None:
        found += f", {100 * saved:.0f} % fewer SynOps"
    lost = 0.0 if last is None or point.accuracy is None else 100 * (last - point.accuracy)
    # More than was tolerated on the images that chose the margin.
    if lost > early_exit.choice.tolerance_points + _NOTABLE_POINTS:
        found += f"; loses {lost:.2f} points here"
    return found


_BACKENDS = {"ref": "exact integers (ref)", "sim": "Lava's CPU simulator (sim)", "loihi2": "Loihi 2 (loihi2)"}


@dataclass(frozen=True)
class RunScene:
    """The context of a run, for its answer.

    Parameters
    ----------
    data, backend
        Names of the data set and the backend.
    seconds
        Wall-clock time of the whole command so far.
    options
        Options of the run.
    cnn
        What the user said about the CNN.
    no_early_exit
        Why early exit was not evaluated; empty if it was, or was not asked for.
    """

    data: str
    backend: str
    seconds: float
    options: RunOptions = RunOptions()
    cnn: CnnOptions = CnnOptions()
    no_early_exit: str = ""

    def line(self, runs: Sequence[FileRun]) -> str:
        """Return the number of images, the backend, and the duration."""
        count, seconds = runs[0].evaluation.image_count, sum(ran.evaluation.seconds for ran in runs)
        kind = "test image" if self.data in get_args(DatasetName) else "image"
        seed = getattr(runs[0].network, "poisson_seed", None)
        remark = "" if seed is None else f", Poisson input (seed {seed})"
        images = f"{count:,} {kind}{'' if count == 1 else 's'}"
        return f"{images}, {_BACKENDS[self.backend]}{remark}: {seconds:.1f} s, {self.seconds:.0f} s in all"


def say_run(done: RunFolder, scene: RunScene, *, as_json: bool, details: bool, next_steps: Sequence[Fact] = ()) -> None:
    """Print the answer of a run, or its results as JSON, and the folder they are written to, if ``done`` has files.

    ``next_steps`` are the last lines; by default they suggest the report and ``--details``.
    """
    missing = [Fact("early exit", scene.no_early_exit)] if scene.no_early_exit else []
    of_files = [(ran, [*remarks(ran, scene), *warnings(ran.evaluation)]) for ran in done.runs]
    if as_json:
        for fact in missing:
            log(f"{fact.label}: {fact.text}")
        for ran, about in of_files:
            for fact in about:
                log(f"{ran.path.name}: {fact.label}: {fact.text}")
        echo(results_json(done.figures))
        if done.files:
            log(f"wrote {done.folder}/ ({', '.join(path.name for path in done.files)})")
        return
    figures = [(ran.path.name, ran.evaluation) for ran in done.runs]
    if len(done.runs) == 1:
        ((ran, _),) = of_files
        about = [*remarks(ran, scene), *figure_facts(ran.evaluation)]
    else:
        about = list(told_once(((ran.path.name, fact) for ran, facts in of_files for fact in facts), len(of_files)))
    doubtful = doubts(figures)
    facts = [fact for fact in (*missing, *about) if fact.text not in doubtful]
    say_answer(
        verdict(figures, scene.data),
        [*(f"warning: {doubt}" for doubt in doubtful), scene.line(done.runs)],
        figure_table(figures),
        [*facts, *_closing(done, next_steps, details=details)],
    )
    if details:
        _say_details(done.figures)


def _closing(done: RunFolder, next_steps: Sequence[Fact], *, details: bool) -> list[Fact]:
    """Return the place of the results, if written, and what to do with them."""
    if not done.files:
        return []
    # Graded spikes have no thresholds, and other tools do not record how theirs were balanced.
    is_balanced = all(isinstance(ran.network, QuantizedNetwork) for ran in done.runs)
    more = "layers, intervals" + (", early exit, energy at each T" if is_balanced else "")
    usual = [Fact("next", f"loihi-convert report {shlex.quote(str(done.folder))}")]
    usual += [] if details else [Fact("", f"--details: {more}")]
    return [Fact("saved", f"{done.folder}/"), *(next_steps or usual)]


def _say_details(figures: Figures) -> None:
    """Print every table of a run."""
    if len(figures) > 1:
        shown = [per_t_table(figures)]
    else:
        ((_, evaluation),) = figures
        shown = [accuracy_table(evaluation), layer_table(evaluation)]
    more = (early_exit_table(figures), energy_table(figures))
    echo("")
    say_tables([*shown, *(table for table in more if table is not None)])


def remarks(ran: FileRun, scene: RunScene) -> Iterator[Fact]:
    """Return how a run compares with `ref`, why it cannot be compared with the CNN, and what entered the network."""
    is_graded = isinstance(ran.network, GradedNetwork)
    if ran.equal_to_reference:
        is_traced = scene.options.trace
        what = "every potential and spike of every layer" if is_traced else "every output potential and spike count"
        images = f"all {ran.equal_to_reference:,} images at every step"
        if is_graded:
            # An image takes one step.
            what, images = "every message and activation of every layer", images.removesuffix(" at every step")
        runner = "Loihi 2" if scene.backend == "loihi2" else "Lava"
        yield Fact("equal", f"{runner} equals ref in {what}, {images}")
    if ran.result.measured:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in ran.result.measured.items())
        yield Fact("profiler", f"all steps of the run, in s, J and W: {figures}")
    if is_external(ran.network):
        neurons = "sigma-delta" if is_graded else "CUBA"
        yield Fact("no CNN", f"another tool wrote the file; its {neurons} neurons run as in Lava, without early exit")
    elif not ran.evaluation.is_compared_with_cnn:
        yield Fact("no CNN", _without_cnn(ran, scene.cnn.arch))
    if not ran.evaluation.is_judged:
        yield Fact("no targets" if ran.evaluation.regression else "no labels", _without_labels(ran))
    if ran.normalization is not None:
        yield _pixels(ran.normalization, is_default=scene.cnn.normalization is None)
    elif is_graded:
        yield from _message_facts(ran, is_stream=scene.options.stream)
    point = ran.evaluation.nominal_point
    classes = ran.result.classes_after(point.timesteps)
    is_constant = ran.network.task == "classification" and len(classes) > 1 and (classes == classes[0]).all()
    # If the CNN's classes or the labels are the same, a note says that.
    if is_constant and 1 not in (point.accuracy, point.agreement_with_cnn):
        yield Fact("warning", f"every image gets class {classes[0]}; accuracy and agreement carry little information")


def _without_cnn(ran: FileRun, arch: str | None) -> str:
    """Return why a run cannot be compared with the CNN, and what to do."""
    recorded = ran.network.provenance.model
    if recorded.arch is not None and arch is None:
        return f"pass --arch {shlex.quote(recorded.arch)} to import and run that code and compare with the CNN"
    if recorded.file is None:
        return "the file does not record its checkpoint; pass --model to compare with the CNN"
    return f"{recorded.file} is not in the folder of the file, or has changed; pass --model to compare with the CNN"


def _without_labels(ran: FileRun) -> str:
    """Return a sentence on what is compared if accuracy, or the error, is unknown."""
    is_regression = ran.evaluation.regression is not None
    missing = "targets, so the error is" if is_regression else "labels, so accuracy is"
    if not ran.evaluation.is_compared_with_cnn:
        known = "nothing is compared"
    else:
        known = "only the error to the CNN is known" if is_regression else "only the agreement with the CNN is known"
    return f"the images have no {missing} unknown; {known}"


def _message_facts(ran: FileRun, *, is_stream: bool) -> Iterator[Fact]:
    """Return what an event is, and how many there are."""
    point, depth = ran.evaluation.nominal_point, ran.evaluation.depth
    neurons = sum(layer.neuron_count for layer in ran.evaluation.layers[: len(ran.network.spiking_layers)])
    since = "the frame before" if is_stream else "the settled state, which is written back before each image"
    share = 100 * point.spikes_per_image / neurons
    yield Fact(
        "messages",
        f"{point.spikes_per_image:,.0f} an image, from {share:.1f} % of the neurons (pixels included): each is a "
        f"change since {since}. Every SynOp is a multiplication by a message.",
    )
    if is_stream and len(ran.result.spike_counts) > 1:
        first, later = ran.result.spike_counts[0].sum(), ran.result.spike_counts[1:].sum(axis=(1, 2)).mean()
        operations = ran.result.synaptic_operations
        fewer = operations[1:].sum(axis=(1, 2)).mean() / max(1, operations[0].sum())
        yield Fact(
            "sequence",
            f"{first:,} messages for the first frame, {later:,.0f} for each later one, with {fewer:.2f} of its SynOps",
        )
    yield Fact("latency", f"the output is there {depth} steps after the image; energy is not estimated")


def _pixels(normalization: Normalization, *, is_default: bool) -> Fact:
    """How pixels enter: ``as (x - 0.5) / 0.5``."""
    texts = (", ".join(f"{number:g}" for number in numbers) for numbers in normalization)
    subtracted, divisor = (f"({text})" if "," in text else text for text in texts)
    origin = " (default; --mean and --std for others)" if is_default else ""
    return Fact("pixels", f"as (x - {subtracted}) / {divisor} with x = pixel / 255{origin}")
