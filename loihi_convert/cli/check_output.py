"""Output of a check: a verdict, findings by rule, and one remedy if findings share it; or JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from loihi_convert.cli.console import Fact, echo, flagged, say_answer, say_tables
from loihi_convert.errors import first_few

if TYPE_CHECKING:
    from loihi_convert.checks.finding import Finding
    from loihi_convert.chip.resources import LayerResources
    from loihi_convert.pipeline.checking import CheckReport

_NAMED_LAYERS: Final = 4
_LARGEST_LAYERS: Final = 3


def say_checked(checked: CheckReport, model: str | None, *, details: bool) -> None:
    """Print a verdict, the findings by rule, and the number of neurocores the network needs.

    ``model`` is the checkpoint of a .net file, if known. ``details`` adds the table of resources, and every finding
    with the source of its limit.
    """
    from loihi_convert.pipeline.checking import CAN_SPIKE
    from loihi_convert.report.conversion_tables import neuron_cost_table, obstacle_table, resource_table

    obstacles = [finding for finding in checked.findings if finding.rule == CAN_SPIKE]
    others = [finding for finding in checked.findings if finding.rule != CAN_SPIKE]
    remedied = _remedied_by_target(others)
    remedy = []
    if remedied:
        steps = "" if checked.timesteps is None else f" -T {checked.timesteps}"
        file = shlex.quote(model or "MODEL")
        command = f"loihi-convert export {file} --target loihi2{steps}"
        remedy = [f"It was exported for Lava. Fix: {command} with its other options"]
    facts = [*([] if details else _grouped(others, remedied)), *_neurocores(checked)]
    if not details and (others or checked.chips):
        facts.append(Fact("", "--details: each layer's resources, every finding with its source"))
    say_answer(checked.verdict, remedy, [], facts)
    if obstacles:
        say_tables([obstacle_table(obstacles, checked.path.name)])
    if checked.compared:
        echo("")
        say_tables([neuron_cost_table(checked.compared)])
    if not details:
        return
    echo("")
    for finding in others:
        echo(flagged(finding.line, "export", "check"))
    if checked.chips is not None:
        say_tables([resource_table(checked.chips)])


def _remedied_by_target(found: Sequence[Finding]) -> set[str]:
    """Return the rules whose errors an export for the chip removes; empty unless the file was exported for Lava."""
    from loihi_convert.checks.finding import claim_words
    from loihi_convert.checks.network_rules import CIRCUIT_RULES, neurons_reset_as_stock_neurons_do

    reset = claim_words(neurons_reset_as_stock_neurons_do)
    if not any(finding.rule == reset and finding.severity == "error" for finding in found):
        return set()
    return {reset, *(claim_words(rule.claim) for rule in CIRCUIT_RULES)}


def _grouped(found: Sequence[Finding], remedied: set[str]) -> Iterator[Fact]:
    """Return one fact per violated rule, with the layers that violate it; each finding on the whole network."""
    from loihi_convert.ir.layered import layer_words

    by_rule: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in found:
        of_network = finding.found if finding.layer is None else ""
        by_rule.setdefault((finding.severity, finding.rule, of_network), []).append(finding)
    for (severity, rule, _), same in by_rule.items():
        first = same[0]
        layers = [layer_words(finding.layer) for finding in same[1:] if finding.layer is not None]
        where = "" if first.layer is None else f"{layer_words(first.layer)}: "
        also = f" (also {first_few(layers, _NAMED_LAYERS)})" if layers else ""
        if severity == "error" and rule in remedied:
            yield Fact(severity, f"{where}{first.found}{also}")
            continue
        limit = f"; {first.limit}" if first.limit else ""
        text = f"{where}{first.found}{also}{limit}"
        yield Fact(severity, flagged(f"{text}. {first.fix}".rstrip(), "export", "check"))


def _neurocores(checked: CheckReport) -> Iterator[Fact]:
    from loihi_convert.chip.savings import span

    chips = checked.chips
    if chips is None:
        return
    circuit = ", with the stock circuit" if chips.has_circuit else ""
    yield Fact("neurocores", f"{span(chips.cores)} of {chips.available:,}{circuit} (an estimate)")
    several = [layer for layer in chips.largest if layer.cores[1] > 1]
    if several:
        yield Fact("most", "; ".join(map(_layer_cores, several[:_LARGEST_LAYERS])))
    for saving in chips.savings[:1]:
        yield Fact("saves most", saving.sentence)


def _layer_cores(layer: LayerResources) -> str:
    from loihi_convert.chip.savings import span
    from loihi_convert.ir.layered import layer_words

    tile = "" if layer.tile is None else f" of {' x '.join(map(str, layer.tile))}"
    limit = "" if layer.limit is None else f", limited by {layer.limit}"
    if not layer.fits:
        limit = f", does not fit: {layer.limit}"
    return f"{layer_words(layer.name)}: {span(layer.cores)} cores{tile}{limit}"


def checked_json(checked: CheckReport) -> dict[str, Any]:
    """Return all findings and resources as JSON."""
    chips = checked.chips
    return {
        "file": str(checked.path),
        "target": checked.target,
        "timesteps": checked.timesteps,
        "image_count": checked.image_count,
        "lava_dl": None if checked.lava_dl is None else checked.lava_dl.model_dump(),
        "is_usable": checked.is_usable,
        "findings": [finding.model_dump() for finding in checked.findings],
        "layers": [] if chips is None else [layer.model_dump() for layer in chips.layers],
        "neurocores": None
        if chips is None
        else {
            "low": chips.cores[0],
            "high": chips.cores[1],
            "relay_low": chips.relay_cores[0],
            "relay_high": chips.relay_cores[1],
            "available": chips.available,
            "has_circuit": chips.has_circuit,
            "source_cores": chips.source_cores,
            "input_cores": chips.input_cores,
            "savings": [saving.model_dump() for saving in chips.savings],
            "boundary": chips.boundary,
        },
        **({"compared": [cost.model_dump() for cost in checked.compared]} if checked.compared else {}),
    }
