"""The section on layers: firing rates and thresholds of the channels, and the work per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import Final, TypeVar

from loihi_convert.chip.limits import NEVER_FIRES
from loihi_convert.report.chart import Chart, channel_chart
from loihi_convert.report.entries import Entry, ImageSet
from loihi_convert.report.page import Details, Heading, PageBlock, Paragraph, Pictures
from loihi_convert.report.run_tables import layer_table
from loihi_convert.report.table import RELAYS, Table, percent
from loihi_convert.runs.stored_run import ChannelThresholds

MAX_CHANNELS: Final = 128
"""Channels of a layer whose values are listed one by one."""

_Value = TypeVar("_Value")


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield charts and tables of every layer; files on the same images and with the same layers share them."""
    # Neurons that send graded spikes have none.
    binary = [entry for entry in entries if not entry.evaluation.is_graded]
    if external := sorted({entry.run.name for entry in binary if entry.run.thresholds is None}):
        yield Paragraph(
            f"Thresholds of channels are missing for {', '.join(external)}: the file was not written by loihi-convert, "
            "and thresholds of CUBA neurons are not recorded."
        )
    if any(entry.evaluation.has_relays for entry in entries):
        yield Paragraph(f"Charts and ranges leave out {RELAYS}. The lists of every channel mark them.")
    groups: dict[tuple[ImageSet, tuple[tuple[str, int], ...]], list[Entry]] = {}
    for entry in entries:
        shape = tuple((layer.name, layer.neuron_count) for layer in entry.evaluation.layers)
        groups.setdefault((entry.images, shape), []).append(entry)
    for (_, shape), group in groups.items():
        if len(groups) > 1:
            yield Heading(f"{group[0].images_name}: {', '.join(entry.label for entry in group)}")
        for name, _ in shape:
            charts = tuple(
                chart for chart in (_rate_chart(group, name), _threshold_chart(group, name)) if chart is not None
            )
            if charts:
                yield Pictures(charts)
        tables = tuple(_layer_table(entry) for entry in group)
        yield from tables if len(tables) == 1 else [Details("Each layer's rates, thresholds and work", tables)]
        lists = tuple(
            table for entry in group for name, _ in shape if (table := _channel_table(entry, name)) is not None
        )
        if lists:
            yield Details("Every channel's firing rate and threshold", lists)


def _rate_chart(group: Sequence[Entry], layer: str) -> Chart | None:
    files = [
        (
            f"{e.label}, T = {e.point.timesteps}",
            e.style,
            tuple(None if channel in _relays(e, layer) else 100 * rate for channel, rate in enumerate(rates)),
        )
        for e in group
        if (rates := _rates(e, layer)) is not None
    ]
    if not files:
        return None
    at = f"at T = {group[0].point.timesteps}" if len(files) == 1 else "each file at its own T"
    sent = " and ".join(dict.fromkeys(entry.sent for entry in group))
    caption = f"{sent.capitalize()} of a channel's neurons / T, mean over neurons and images; {at}."
    title = f"{layer}: {'firing rate' if sent == 'spikes' else f'rate of {sent}'}"
    return channel_chart(title, caption, "rate, %", files, "{:.2f} %".format)


def _threshold_chart(group: Sequence[Entry], layer: str) -> Chart | None:
    files = [
        (
            f"{entry.label}, for T = {entry.evaluation.timesteps}",
            entry.style,
            tuple(None if c in _relays(entry, layer) else real for c, real in enumerate(_real_thresholds(neurons))),
        )
        for entry in group
        if (neurons := _neurons(entry, layer)) is not None
    ]
    if all(value is None for _, _, values in files for value in values):
        return None
    caption = "In units of the CNN's activations, before rounding to Loihi's integers."
    return channel_chart(f"{layer}: threshold", caption, "threshold", files)


def _layer_table(entry: Entry) -> Table:
    table = layer_table(
        entry.evaluation,
        entry.point,
        rates=lambda layer: _without_relays(entry, layer, _rates(entry, layer)),
        thresholds=lambda layer: _own_thresholds(entry, layer),
    )
    return replace(table, title=entry.full_label)


def _channel_table(entry: Entry, layer: str) -> Table | None:
    rates, neurons = _rates(entry, layer), _neurons(entry, layer)
    if rates is None or neurons is None or len(rates) > MAX_CHANNELS:
        return None
    relays = _relays(entry, layer)
    rows = tuple(
        (
            f"{channel} (relay)" if channel in relays else str(channel),
            percent(rate) or "",
            f"{integer:,}",
            "never fires" if real is None else f"{real:.4g}",
            f"{v0:,}",
        )
        for channel, (rate, integer, real, v0) in enumerate(
            zip(rates, neurons.integers, _real_thresholds(neurons), neurons.initial_potentials, strict=True)
        )
    )
    headers = ("channel", "firing\nrate %", "threshold,\ninteger", "threshold,\nreal", "initial\npotential")
    return Table(f"{entry.full_label}, {layer}, at T = {entry.point.timesteps}", headers, rows, 0)


def _relays(entry: Entry, layer: str) -> Set[int]:
    return entry.run.relays.get((entry.file, layer), set())


def _without_relays(entry: Entry, layer: str, values: Sequence[_Value] | None) -> list[_Value] | None:
    relays = _relays(entry, layer)
    return None if values is None else [value for channel, value in enumerate(values) if channel not in relays]


def _rates(entry: Entry, layer: str) -> tuple[float, ...] | None:
    return entry.run.firing_rates.get((entry.file, layer, entry.point.timesteps))


def _neurons(entry: Entry, layer: str) -> ChannelThresholds | None:
    return None if entry.run.thresholds is None else entry.run.thresholds.get((entry.file, layer))


def _own_thresholds(entry: Entry, layer: str) -> list[int] | None:
    neurons = _neurons(entry, layer)
    return None if neurons is None else _without_relays(entry, layer, neurons.integers)


def _real_thresholds(neurons: ChannelThresholds) -> Iterator[float | None]:
    """Return the float thresholds before rounding or, if not recorded, integer x scale; None: never fires."""
    is_recorded = any(real is not None for real in neurons.real)
    for integer, real, scale in zip(neurons.integers, neurons.real, neurons.scales, strict=True):
        if real is None:
            # If a layer has a single threshold, it also applies to a channel that never fires.
            yield None if is_recorded or integer >= NEVER_FIRES else integer * scale
        else:
            yield real
