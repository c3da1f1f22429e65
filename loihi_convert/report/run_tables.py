"""Tables of the results of a run: accuracy or errors, layers, early exit, energy.

A table contains one of two kinds of accuracy. *Anytime*: one file, thresholds balanced for its T, its output read after
each step of one run. *Per T*: several files, each with one row, at the T it was balanced for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from loihi_convert.chip import limits
from loihi_convert.chip.energy import Estimate
from loihi_convert.errors import low_to_high
from loihi_convert.ground.statistics import Interval
from loihi_convert.metrics.early_exit import EarlyExit, MarginChoice
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import Errors, Regression, RegressionPoint, means
from loihi_convert.report.table import (
    RELAYS,
    Table,
    count,
    neurons,
    neurons_header,
    number,
    percent,
    percent_interval,
    points,
    quantity_range,
    r_squared,
    table_of,
)

R2: Final = "R\N{SUPERSCRIPT TWO}"

Figures = Sequence[tuple[str, Evaluation]]
"""Files by name, and what was measured of each."""

GRADED_CAPTION: Final = "graded spikes: the output after one step of each layer"
"""What the figures of a file with graded spikes are."""


def point_cells(evaluation: Evaluation, point: Point) -> dict[str, str | None]:
    """Return the known results of one file at one T, by column header."""
    return {
        "T": str(point.timesteps),
        "T +\ndepth": str(point.global_steps),
        "CNN\n%": percent(evaluation.cnn_accuracy),
        "float\nSNN %": percent(point.float_accuracy),
        "fixed\npoint %": percent(point.accuracy),
        "95 %\ninterval": percent_interval(point.accuracy_interval),
        "loss,\npoints": points(point.conversion_loss_points),
        "same as\nCNN %": percent(point.agreement_with_cnn),
        **error_cells(evaluation.regression, point),
        "spikes\n/image": count(point.spikes_per_image),
        "SynOps\n/image": count(point.synaptic_operations),
    }


_ON_PAGE: Final = ("T", "SynOps\n/image", "spikes\n/image", "CNN\n%", "float\nSNN %", "same as\nCNN %")


def page_cells(evaluation: Evaluation, point: Point) -> dict[str, str | None]:
    """Return the same for a page: accuracy first, with its interval in the same cell."""
    known = point_cells(evaluation, point)
    accuracy = (known["fixed\npoint %"], known["95 %\ninterval"])
    return {
        "accuracy %\n95 % interval": "\n".join(text for text in accuracy if text) or None,
        **error_cells(evaluation.regression, point),
        **{name: known[name] for name in ("loss,\npoints", *_ON_PAGE)},
        "steps\non Lava": known["T +\ndepth"],
    }


def error_cells(regression: Regression | None, point: Point) -> dict[str, str | None]:
    """Return the errors of a regression: means over outputs, and the worst output; all None for a classifier."""
    every: tuple[Errors | None, ...] = (None,) * 4
    if regression is not None:
        at = regression.at(point.timesteps)
        every = (regression.cnn, at.float_to_targets, at.to_targets, at.to_cnn)
    (cnn, _), (floating, _), (found, r2), (to_cnn, r2_to_cnn) = map(means, every)
    judged = every[2] or every[3]
    return {
        "CNN\nRMSE": number(cnn),
        "float\nRMSE": number(floating),
        "fixed\nRMSE": number(found),
        "RMSE\nto CNN": number(to_cnn),
        f"fixed\n{R2}": r_squared(r2),
        f"{R2}\nto CNN": r_squared(r2_to_cnn if found is None else None),
        f"worst\n{R2}": r_squared(judged.outputs[judged.worst].r2 if judged and len(judged.outputs) > 1 else None),
    }


def output_table(evaluation: Evaluation) -> Table | None:
    """Return the errors of each output at the nominal T, and their means; None for a classifier."""
    regression = evaluation.regression
    if regression is None:
        return None
    at = regression.at(evaluation.nominal_point.timesteps)
    names = (*regression.output_names, "mean")
    every = [
        (None,) * len(names) if errors is None else (*errors.outputs, errors.mean)
        for errors in (regression.cnn, at.to_targets, at.to_cnn)
    ]
    rows = [
        {
            "output": name,
            "CNN\nRMSE": number(cnn and cnn.rmse),
            "fixed point\nRMSE": number(found and found.rmse),
            f"CNN\n{R2}": r_squared(cnn and cnn.r2),
            f"fixed point\n{R2}": r_squared(found and found.r2),
            "RMSE\nto CNN": number(to_cnn and to_cnn.rmse),
            f"{R2}\nto CNN": r_squared(to_cnn and to_cnn.r2),
        }
        for name, cnn, found, to_cnn in zip(names, *every, strict=True)
    ]
    caption = f"errors of each output at T = {at.timesteps}"
    return table_of(rows, words=("output",), caption=caption, has_total=True)


def accuracy_table(evaluation: Evaluation) -> Table:
    """Return the anytime table of one file, one row per reported T."""
    return table_of(
        [point_cells(evaluation, point) for point in evaluation.points],
        title=(
            f"{evaluation.image_count:,} images in {evaluation.seconds:.1f} s "
            f"({evaluation.images_per_second:,.0f} images/s, {evaluation.startup_seconds:.1f} s to start)"
        ),
        caption="\n".join(_accuracy_caption(evaluation)),
    )


def readout_caption(evaluation: Evaluation) -> str:
    """Return how the points of one run were read."""
    read = {"potential": "potentials", "spikes": "spike counts"}[evaluation.readout]
    made = f"made for T = {evaluation.timesteps}; anytime readout: {read} after each step of one run"
    return GRADED_CAPTION if evaluation.is_graded else made


def _accuracy_caption(evaluation: Evaluation) -> Iterable[str]:
    last, regression = evaluation.points[-1], evaluation.regression
    yield readout_caption(evaluation)
    if evaluation.saturated_images:
        limit = f"\N{PLUS-MINUS SIGN}{limits.POTENTIAL_LIMIT}, the end of Loihi's range"
        yield f"{evaluation.saturated_images:,} images reached an output potential of {limit}"
    if evaluation.has_relays:
        count = sum(layer.relay_neuron_count for layer in evaluation.layers)
        shares = [f"{count:,} of {sum(layer.neuron_count for layer in evaluation.layers):,} neurons"]
        for what, part, whole in (
            ("spikes", last.relay_spikes_per_image, last.spikes_per_image),
            ("SynOps", last.relay_synaptic_operations, last.synaptic_operations),
        ):
            shares += [f"{percent(part / whole)} % of the {what}"] if part is not None and whole else []
        yield f"spikes and SynOps include {RELAYS}: {', '.join(shares)} at T = {last.timesteps}"
    if last.circuit_synaptic_operations:
        share = percent(last.circuit_synaptic_operations / last.synaptic_operations)
        yield f"SynOps include the synapses of the stock circuit: {share} % at T = {last.timesteps}"
    if regression is not None:
        yield error_caption(len(regression.output_names))
        r2 = means(regression.cnn)[1]
        known = [] if r2 is None else [f"the CNN's {R2}: {r_squared(r2)}"]
        worst = worst_output(regression, regression.points[-1])
        known += [f"{worst} at T = {last.timesteps}"] if worst else []
        yield from ["; ".join(known)] if known else []
    yield from evaluation.notes


def worst_output(regression: Regression, point: RegressionPoint) -> str:
    """Return a sentence on the output with the lowest R^2; empty if there is only one output."""
    judged = point.to_targets or point.to_cnn
    if judged is None or len(judged.outputs) < 2:
        return ""
    one = judged.outputs[judged.worst]
    r2 = "" if one.r2 is None else f", {R2} {r_squared(one.r2)}"
    return f"worst output: {regression.output_names[judged.worst]}, RMSE {number(one.rmse)}{r2}"


def error_caption(outputs: int) -> str:
    """Return an explanation of the errors of a regression."""
    means = f"; means over {outputs} outputs" if outputs > 1 else ""
    return f"RMSE: root mean squared error, in the CNN's units; {R2}: 1 is exact, 0 as good as a constant{means}"


def per_t_table(figures: Figures) -> Table:
    """Return the per-T table: each file one row, at its `Evaluation.nominal_point`."""
    rows = [{"file": name, **point_cells(evaluation, evaluation.nominal_point)} for name, evaluation in figures]
    notes = dict.fromkeys(note for _, evaluation in figures for note in evaluation.notes)
    caption = [per_t_caption([evaluation for _, evaluation in figures])]
    outputs = [len(e.regression.output_names) for _, e in figures if e.regression is not None]
    if outputs:
        caption.append(error_caption(max(outputs)))
    return table_of(rows, caption="\n".join([*caption, *notes]))


def per_t_caption(evaluations: Sequence[Evaluation]) -> str:
    """Return a sentence on the T of the results of several files: that of their `Evaluation.nominal_point`."""
    binary = [evaluation for evaluation in evaluations if not evaluation.is_graded]
    if not binary:
        return GRADED_CAPTION
    caption = f"one file per T, each read at {own_timesteps(binary)}"
    return caption if len(binary) == len(evaluations) else f"{caption}; {GRADED_CAPTION}"


def own_timesteps(evaluations: Sequence[Evaluation]) -> str:
    """Return the T of each file's `Evaluation.nominal_point`, in words."""
    is_complete = all(evaluation.nominal_point.timesteps == evaluation.timesteps for evaluation in evaluations)
    return "the T it was made for" + ("" if is_complete else ", or the last T of its run")


def layer_table(
    evaluation: Evaluation,
    point: Point | None = None,
    *,
    rates: Callable[[str], Sequence[float]] = lambda layer: (),
    thresholds: Callable[[str], Sequence[int]] = lambda layer: (),
) -> Table:
    """Return firing rates, thresholds and work per layer at ``point``, by default the last T.

    ``rates`` and ``thresholds`` (integers) hold the known values of a layer's channels (without relays), by layer name.
    """
    point = evaluation.points[-1] if point is None else point
    has_thresholds = any(thresholds(layer.name) for layer in evaluation.layers)
    # No synapse follows the last layer; if it only integrates, it does not have a firing rate either.
    reached = (None, *(f"{operations:,.0f}" for operations in point.synaptic_operations_per_layer), None)
    spiking = len(point.firing_rate)
    rows = []
    for index, (layer, rate, operations) in enumerate(
        zip(evaluation.layers, (*point.firing_rate, None), reached, strict=False)
    ):
        channels, integers = rates(layer.name), thresholds(layer.name)
        only_integrates = "only integrates" if index >= spiking and has_thresholds else None
        rows.append(
            {
                "layer": layer.name,
                neurons_header(has_relays=evaluation.has_relays): neurons(layer.neuron_count, layer.relay_neuron_count),
                "firing\nrate %": percent(rate),
                "of channels\n%": low_to_high(channels, lambda share: percent(share) or "") if channels else None,
                "silent\nchannels": str(sum(one == 0 for one in channels)) if channels else None,
                "thresholds,\nintegers": low_to_high(integers, "{:,}".format) if integers else only_integrates,
                "SynOps\n/image": operations,
                "MACs\n/image": f"{layer.multiply_accumulates:,}",
            }
        )
    sent = "messages" if evaluation.is_graded else "spikes"
    pixels = "" if evaluation.is_graded else " The first layer receives pixels at every step, or Poisson spikes."
    caption = (
        f"at T = {point.timesteps}; SynOps: synapses of the layer reached by the {sent} of the one before it.{pixels} "
        "MACs: the layer's multiplications if it computed once, with numbers"
    )
    if evaluation.has_relays:
        caption += ". Rates and thresholds leave out relays, SynOps include them"
    return table_of(rows, caption=caption)


def early_exit_table(figures: Figures) -> Table | None:
    """Return the results of early exit, one row per file with an `EarlyExit`; None if there are none."""
    known = [(name, evaluation.early_exit) for name, evaluation in figures if evaluation.early_exit is not None]
    if not known:
        return None
    return table_of(
        [{"file": name if len(figures) > 1 else None, **_exit_cells(early_exit)} for name, early_exit in known],
        title="early exit",
        caption=(
            "stop once the first class leads the second by the margin; margin: the smallest that costs at most "
            f"{margin_cost(known[0][1].choice)}. On Lava the depth is added to each T"
        ),
    )


def _exit_cells(early_exit: EarlyExit) -> dict[str, str | None]:
    point = early_exit.chosen_point
    return {
        "T": str(early_exit.choice.timesteps),
        "margin": f"{early_exit.choice.margin:,}",
        "average\nT": f"{point.average_timesteps:.2f}",
        "half, 95 %\nstop by T": f"{point.median_timesteps}, {point.percentile_95_timesteps}",
        "at T\n%": percent(early_exit.points[-1].accuracy),
        "early\n%": percent(point.accuracy),
        "95 %\ninterval": percent_interval(point.accuracy_interval),
        "same as\nat T %": percent(point.agreement_with_last),
        "SynOps\nsaved %": percent(early_exit.synaptic_operations_saved),
    }


def margin_cost(choice: MarginChoice) -> str:
    """Return the permitted loss of a margin and its images: "0.1 points of accuracy on 2,000 validation images"."""
    measure = "points of accuracy" if choice.by_labels else "% of the classes after T"
    return f"{choice.tolerance_points:g} {measure} on {choice.image_count:,} {choice.split} images"


def energy_table(figures: Figures) -> Table | None:
    """Return the estimated energy and time per inference, or None if no evaluation has an estimate.

    One file has a row per reported T; several files have one row each, at the T of their thresholds.
    """
    known = [(name, evaluation, evaluation.energy) for name, evaluation in figures if evaluation.energy is not None]
    if not known:
        return None
    rows = [
        {
            "file": name if len(figures) > 1 else None,
            "T": str(one.timesteps),
            "SynOps\n/image": count(one.synaptic_operations),
            "membrane\nupdates": count(one.membrane_updates),
            "Loihi 1,\nenergy": quantity_range(one.loihi1_joules, "J"),
            "Loihi 1,\ntime": quantity_range(one.loihi1_seconds, "s"),
            "arithmetic,\n45 nm": quantity_range(one.arithmetic_joules, "J"),
        }
        for name, evaluation, energy in known
        for one in energy.estimates
        if len(figures) == 1 or one.timesteps == evaluation.nominal_point.timesteps
    ]
    cnns = [energy.cnn_arithmetic_joules for _, _, energy in known if energy.cnn_arithmetic_joules is not None]
    estimates = [one for _, _, energy in known for one in energy.estimates]
    relays = [
        share for one in estimates if one.relay_membrane_updates for share in _shares(one.relay_loihi1_joules, one)
    ]
    circuits = [share for one in estimates for share in _shares(one.circuit_loihi1_joules, one)]
    facts = []
    if cnns:
        # Files of different CNNs may be compared.
        facts.append(f"The CNN: {quantity_range((min(low for low, _ in cnns), max(high for _, high in cnns)), 'J')}")
    for who, shares in (("Relays take", relays), ("The stock circuit takes", circuits)):
        facts += [f"{who} {low_to_high(shares, '{:.0f}'.format)} % of Loihi 1's energy"] if shares else []
    return table_of(
        rows,
        title="energy and time of an inference, estimated",
        caption=" ".join([*dict.fromkeys(energy.boundary for _, _, energy in known), ". ".join(facts)]).rstrip(),
    )


def _shares(part: Interval | None, one: Estimate) -> tuple[float, ...]:
    """Return ``part`` of Loihi 1's energy in percent, at the low and at the high end; nothing if it is unknown."""
    return tuple(100 * share / whole for share, whole in zip(part or (), one.loihi1_joules, strict=False))
