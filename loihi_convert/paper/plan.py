"""From a request to the cells of its tables and figures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from loihi_convert.batch.computation import Computation, Store
from loihi_convert.errors import UsageError
from loihi_convert.paper.exhibits import Exhibit
from loihi_convert.paper.measurements import Accuracy, Choosing, PaperConversion
from loihi_convert.paper.networks import Network
from loihi_convert.paper.request import Request, tuned_networks
from loihi_convert.paper.variants import (
    DEFAULT_VARIANTS,
    VARIANTS,
    PaperSetting,
    Variant,
    distinct_variants,
    setting,
)
from loihi_convert.report import paper

Tell = Callable[[str], None]
"""Told of each cell that has been computed, and of what is left out, in a sentence."""

_Value = TypeVar("_Value", int, str)


@dataclass(frozen=True)
class PlannedExhibit:
    """A table or figure, its cells, and the setting of each in each variant."""

    exhibit: Exhibit
    cells: tuple[paper.Cell, ...]
    settings: Mapping[tuple[paper.Cell, Variant], PaperSetting | None]

    @property
    def variants(self) -> list[Variant]:
        """The variants, each once."""
        return list(dict.fromkeys(variant for _, variant in self.settings))

    @property
    def made(self) -> list[tuple[str, PaperSetting]]:
        """The settings of all variants, each with its data set."""
        return [(cell.data, one) for (cell, _), one in self.settings.items() if one is not None]

    @property
    def best_steps(self) -> list[tuple[str, int]]:
        """Every data set with every T, in descending order, if the best of our methods is shown."""
        found = {(cell.data, cell.timesteps) for cell in self.cells if cell.timesteps is not None}
        data = list(dict.fromkeys(cell.data for cell in self.cells))
        return sorted(found, key=lambda step: (data.index(step[0]), -step[1])) if self.exhibit.has_best else []


def planned_parts(request: Request, networks: Mapping[str, Network], tell: Tell) -> list[PlannedExhibit]:
    """Return the tables and figures of a request; of several, only those that its networks, methods and T allow.

    Raises
    ------
    UsageError
        If none is left, or the only one has no such data set, method or T.
    """
    is_several = len(request.exhibits) > 1
    found = []
    for exhibit in request.exhibits:
        cells = exhibit.cells()
        data = dict.fromkeys(cell.data for cell in cells)
        timesteps, methods = request.timesteps or exhibit.default_timesteps, request.methods
        usable = [name for name in networks if name in data or not is_several]
        if is_several:
            # Those that it has, if it has any.
            timesteps = _known(timesteps, {cell.timesteps for cell in cells})
            methods = _known(methods, {cell.method for cell in cells})
        try:
            chosen = _chosen(cells, str(exhibit), usable, timesteps, methods)
        except UsageError as error:
            if not is_several:
                raise
            reason = f"{error.found}; {error.expected}" if usable else f"needs a network trained on {' or '.join(data)}"
            tell(f"{exhibit} is left out: {reason}")
            continue
        for name in data:
            if name not in networks:
                tell(f"{exhibit}: no network was trained on {name}; its cells are left out")
        asked = request.variants or tuple(VARIANTS[name] for name in DEFAULT_VARIANTS[exhibit.kind])
        seed, bits = request.poisson_seed, request.weight_bits
        settings = {
            (cell, variant): setting(cell, variant, seed=seed, weight_bits=bits, is_exported=exhibit.is_exported)
            for cell, variant in itertools.product(chosen, distinct_variants(asked, chosen))
        }
        found.append(PlannedExhibit(exhibit, chosen, settings))
    if not found:
        raise UsageError("found none", where="reproduce", expected="must leave at least one table or figure")
    return found


def _known(asked: tuple[_Value, ...] | None, known: Collection[_Value | None]) -> tuple[_Value, ...] | None:
    """Return the ``asked`` values that are ``known``, or all if none is, for the error."""
    return asked and (tuple(value for value in asked if value in known) or asked)


def _chosen(
    cells: Sequence[paper.Cell],
    where: str,
    data: Sequence[str],
    timesteps: Sequence[int] | None,
    methods: Sequence[str] | None,
) -> tuple[paper.Cell, ...]:
    """Return the cells of these data sets, T and methods (None: any), and the CNN's; raise a `UsageError` if none."""
    known = list(dict.fromkeys(cell.data for cell in cells))
    for name in data:
        if name not in known:
            expected = f"{where} needs networks trained on {' and '.join(known)}"
            raise UsageError(f"one was trained on {name}", where="models", expected=expected)
    by_method = list(dict.fromkeys(cell.method for cell in cells if cell.method != paper.CNN))
    if unknown := [name for name in methods or () if name not in by_method]:
        raise UsageError(f"found {','.join(unknown)}", where="methods", expected=f"{where} has {', '.join(by_method)}")
    steps = sorted({cell.timesteps for cell in cells if cell.timesteps is not None and cell.data in data})
    found = tuple(
        cell
        for cell in cells
        if cell.data in data
        and (methods is None or cell.method in (*methods, paper.CNN))
        and (timesteps is None or cell.timesteps is None or cell.timesteps in timesteps)
    )
    lost = [t for t in timesteps or () if t not in steps]
    if lost or all(cell.timesteps is None for cell in found):
        wrong, expected = lost or timesteps or (), f"{where} has {', '.join(map(str, steps))}"
        raise UsageError(f"found {','.join(map(str, wrong))}", where="timesteps", expected=expected)
    return found


class CellPlan:
    """The cells of all parts. Settings that share thresholds are balanced together, whichever part they belong to."""

    def __init__(
        self, request: Request, networks: Mapping[str, Network], parts: Sequence[PlannedExhibit], store: Store
    ) -> None:
        self.networks = networks
        made = dict.fromkeys(one for part in parts for one in part.made)
        self._conversions: dict[tuple[str, PaperSetting], PaperConversion] = {}
        for data, network in networks.items():
            found = network.conversions([one for name, one in made if name == data], store)
            self._conversions |= {(data, one): conversion for one, conversion in found.items()}
        self.bests: dict[tuple[str, int], Choosing] = {}
        steps = dict.fromkeys(step for part in parts for step in part.best_steps)
        if request.with_best and steps:
            tuned = tuned_networks(request, networks)
            self.bests = {(data, t): networks[data].best(tuned[data], t, request.weight_bits) for data, t in steps}
        elif request.tuned:
            raise UsageError(
                "given, but nothing of this has a best", where="tuned", expected="is for the best at each T"
            )
        self.cells = [cell for part in parts for cell in self._cells(part)]

    def channels(self, exhibit: Exhibit, data: str, one: PaperSetting) -> Computation[Any]:
        """Return the cell of a figure of channels."""
        conversion = self._conversions[data, one]
        return self.networks[data].rates(conversion) if exhibit.shows == "rates" else conversion.balancing

    def accuracy(self, data: str, one: PaperSetting) -> Accuracy:
        """Return the cell of an accuracy."""
        return self.networks[data].accuracy(self._conversions[data, one])

    def _cells(self, part: PlannedExhibit) -> list[Computation[Any]]:
        if part.exhibit.shows != "accuracies":
            return [self.channels(part.exhibit, data, one) for data, one in part.made]
        cnns = [self.networks[cell.data].cnn(timesteps) for cell in part.cells for timesteps in (cell.timesteps, None)]
        bests = [self.bests[step] for step in part.best_steps if step in self.bests]
        return [*cnns, *(self.accuracy(data, one) for data, one in part.made), *bests]
