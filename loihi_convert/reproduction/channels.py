"""Firing rates or thresholds of every channel of every spiking layer, for figures 7, A4 and A5."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loihi_convert.errors import UsageError
from loihi_convert.progress import ProgressFactory
from loihi_convert.report import paper
from loihi_convert.reproduction.measure import Measurements
from loihi_convert.reproduction.meter import Meter
from loihi_convert.reproduction.panels import ChannelPanel
from loihi_convert.reproduction.paper_cells import Setting, Variant, setting
from loihi_convert.reproduction.request import Request

_COLUMNS = ("figure", "data", "method", "reset", "variant", "timesteps", "layer", "channel")


@dataclass(frozen=True)
class ChannelValues:
    """The data of a figure of channels: one of ``panels`` per layer, the ``quantity`` shown, and the same as CSV."""

    panels: tuple[ChannelPanel, ...]
    quantity: str
    csv_text: str


def channel_values(
    request: Request,
    networks: dict[str, Measurements],
    cells: Sequence[paper.Cell],
    variants: Sequence[Variant],
    bars: ProgressFactory,
) -> ChannelValues:
    """Return the firing rate (figure 7) or threshold of every channel."""
    if request.computed_only:
        raise UsageError(f"{request.title} shows no accuracies", where="computed_only", hint="Leave it out.")
    (data, network), *_ = networks.items()
    of_rates = request.name == "7"
    made = [
        (cell, variant, one)
        for variant in variants
        for cell in sorted(cells, key=lambda cell: cell.timesteps or 0)
        if (one := setting(cell, variant, seed=request.poisson_seed, weight_bits=request.weight_bits)) is not None
    ]
    has_several_t = len({cell.timesteps for cell in cells}) > 1
    quantity = "spikes / T" if of_rates else "threshold"
    lines: list[tuple[object, ...]] = []
    panels: dict[str, dict[str, Sequence[float]]] = {}
    for (cell, variant, _), values in zip(made, _values(request, network, made, bars), strict=True):
        names = [cell.method if of_rates else f"T = {cell.timesteps}"]
        names += [variant.name] if len(variants) > 1 else []
        names += [f"T = {cell.timesteps}"] if of_rates and has_several_t else []
        for layer, numbers in values.items():
            panels.setdefault(layer, {})[", ".join(names)] = numbers
            row = (request.name, data, cell.method, cell.reset, variant.name, cell.timesteps, layer)
            lines += [(*row, channel, number) for channel, number in enumerate(numbers)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_COLUMNS, quantity.replace(" / ", "_per_")])
    writer.writerows(lines)
    drawn = tuple(ChannelPanel(f"{name}, {data}", values) for name, values in panels.items())
    return ChannelValues(drawn, quantity, stream.getvalue())


def _values(
    request: Request,
    network: Measurements,
    made: Sequence[tuple[paper.Cell, Variant, Setting]],
    bars: ProgressFactory,
) -> list[dict[str, list[float]]]:
    """Return the values of each setting by layer name; all T of a row are balanced together."""
    settings = [one for _, _, one in made]
    with bars(request.title) as progress:
        meter = Meter(progress)
        meter.total = sum(network.work([one]) for one in settings)
        rows: dict[Setting, list[Setting]] = {}
        for one in settings:
            rows.setdefault(replace(one, timesteps=0), []).append(one)
        balanced = {
            one: spiking
            for row in rows.values()
            for one, spiking in zip(row, network.thresholds(row, meter), strict=True)
        }
        if request.name == "7":
            return [network.firing_rates(one, meter) for one in settings]
        return [
            {layer.name: layer.neuron.threshold.tolist() for layer in balanced[one].layers if layer.neuron is not None}
            for one in settings
        ]
