"""From a request to the cells of its tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from loihi_convert.cells.cell import Cell
from loihi_convert.cells.store import Store
from loihi_convert.errors import UsageError
from loihi_convert.report import paper
from loihi_convert.reproduction.measurements import Accuracy, Choosing, Conversion
from loihi_convert.reproduction.networks import Network
from loihi_convert.reproduction.paper_cells import (
    FIGURE_OF_RATES,
    FIGURES_OF_CHANNELS,
    VARIANTS,
    WITH_BEST,
    Setting,
    Variant,
    chosen_cells,
    distinct_variants,
    figure_cells,
    setting,
)
from loihi_convert.reproduction.request import DEFAULT_VARIANTS, Exhibit, Request, tuned_networks

Tell = Callable[[str], None]
"""Told of each cell that has been computed, and of what is left out, in a sentence."""

_RATE_TIMESTEPS: Final = (64,)

_Value = TypeVar("_Value", int, str)


@dataclass(frozen=True)
class Part:
    """A table or figure, its cells, and the setting of each in each variant."""

    exhibit: Exhibit
    cells: tuple[paper.Cell, ...]
    settings: Mapping[tuple[paper.Cell, Variant], Setting | None]

    @property
    def variants(self) -> list[Variant]:
        """The variants, each once."""
        return list(dict.fromkeys(variant for _, variant in self.settings))

    @property
    def has_best(self) -> bool:
        """Whether it also shows the best of our methods."""
        return self.exhibit.title in WITH_BEST

    @property
    def is_of_channels(self) -> bool:
        """Whether it shows a value for each channel, not accuracies."""
        return self.exhibit.kind == "figure" and self.exhibit.name in FIGURES_OF_CHANNELS

    @property
    def steps(self) -> list[tuple[str, int]]:
        """Every data set with every T, in descending order."""
        found = {(cell.data, cell.timesteps) for cell in self.cells if cell.timesteps is not None}
        data = list(dict.fromkeys(cell.data for cell in self.cells))
        return sorted(found, key=lambda step: (data.index(step[0]), -step[1]))


def cells_of(exhibit: Exhibit) -> tuple[paper.Cell, ...]:
    """Return every cell of a table or figure."""
    return paper.table(exhibit.name) if exhibit.kind == "table" else figure_cells(exhibit.name)


def planned_parts(request: Request, networks: Mapping[str, Network], tell: Tell) -> list[Part]:
    """Return the tables and figures of a request; of several, only those that its networks, methods and T allow."""
    is_several = len(request.exhibits) > 1
    found = []
    for exhibit in request.exhibits:
        cells = cells_of(exhibit)
        data = dict.fromkeys(cell.data for cell in cells)
        timesteps = request.timesteps
        if exhibit.name == FIGURE_OF_RATES and timesteps is None:
            timesteps = _RATE_TIMESTEPS
        usable = [name for name in networks if name in data or not is_several]
        methods = request.methods
        if is_several:
            # Those that it has, if it has any.
            timesteps = _known(timesteps, {cell.timesteps for cell in cells})
            methods = _known(methods, {cell.method for cell in cells})
        try:
            chosen = chosen_cells(cells, exhibit.title, usable, timesteps, methods)
        except UsageError as error:
            if not is_several:
                raise
            reason = f"{error.found}; {error.expected}" if usable else f"needs a network trained on {' or '.join(data)}"
            tell(f"{exhibit.title} is left out: {reason}")
            continue
        for name in data:
            if name not in networks:
                tell(f"{exhibit.title}: no network was trained on {name}; its cells are left out")
        asked = request.variants or tuple(VARIANTS[name] for name in DEFAULT_VARIANTS[exhibit.kind])
        variants = distinct_variants(asked, chosen)
        seed, bits, is_exported = request.poisson_seed, request.weight_bits, exhibit.name == "headline"
        settings = {
            (cell, variant): setting(cell, variant, seed=seed, weight_bits=bits, is_exported=is_exported)
            for cell in chosen
            for variant in variants
        }
        found.append(Part(exhibit, chosen, settings))
    if not found:
        raise UsageError("found none", where="reproduce", expected="must leave at least one table or figure")
    return found


def _known(asked: tuple[_Value, ...] | None, known: Collection[_Value | None]) -> tuple[_Value, ...] | None:
    """Return the ``asked`` values that are ``known``, or all if none is, for the error."""
    return asked and (tuple(value for value in asked if value in known) or asked)


class Plan:
    """The cells of all parts. Settings that share thresholds are balanced together, whichever part they belong to."""

    def __init__(self, request: Request, networks: Mapping[str, Network], parts: Sequence[Part], store: Store) -> None:
        self.networks = networks
        self.conversions: dict[tuple[str, Setting], Conversion] = {}
        for data, network in networks.items():
            made = [
                one
                for part in parts
                for (cell, _), one in part.settings.items()
                if cell.data == data and one is not None
            ]
            found = network.conversions(dict.fromkeys(made), store)
            self.conversions |= {(data, one): conversion for one, conversion in found.items()}
        self.bests: dict[tuple[str, int], Choosing] = {}
        if request.with_best and any(part.has_best for part in parts):
            tuned = tuned_networks(request, networks)
            self.bests = {
                (data, t): networks[data].best(tuned[data], t, request.weight_bits)
                for part in parts
                if part.has_best
                for data, t in reversed(part.steps)
            }
        elif request.tuned:
            raise UsageError(
                "given, but nothing of this has a best", where="tuned", expected="is for the best at each T"
            )
        self.cells = [cell for part in parts for cell in self._cells(part)]

    def channels(self, exhibit: Exhibit, data: str, one: Setting) -> Cell[Any]:
        """Return the cell of a figure of channels."""
        conversion = self.conversions[data, one]
        return self.networks[data].rates(conversion) if exhibit.name == FIGURE_OF_RATES else conversion.balancing

    def accuracy(self, data: str, one: Setting) -> Accuracy:
        """Return the cell of an accuracy."""
        return self.networks[data].accuracy(self.conversions[data, one])

    def _cells(self, part: Part) -> list[Cell[Any]]:
        of_data = [(cell.data, one) for (cell, _), one in part.settings.items() if one is not None]
        if part.is_of_channels:
            return [self.channels(part.exhibit, data, one) for data, one in of_data]
        cnns = [self.networks[cell.data].cnn(timesteps) for cell in part.cells for timesteps in (cell.timesteps, None)]
        bests = [self.bests[step] for step in part.steps if step in self.bests] if part.has_best else []
        return [*cnns, *(self.accuracy(data, one) for data, one in of_data), *bests]
