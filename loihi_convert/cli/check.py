"""`loihi-convert check`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import Fact, echo, flagged, log, say_answer, say_json, say_tables
from loihi_convert.cli.options import first_images, flags_of, validation_images
from loihi_convert.errors import InputError, UsageError, first_few, rendered
from loihi_convert.ground.options import Flag
from loihi_convert.ground.ready_made import file_of
from loihi_convert.pipeline.options import CheckOptions, CnnOptions, DataRequest

if TYPE_CHECKING:
    from loihi_convert.checks.finding import Finding
    from loihi_convert.chip.resources import LayerResources
    from loihi_convert.data import Dataset
    from loihi_convert.pipeline.checking import CheckReport, LoadedFile

_ACTIVITY_IMAGES = 100
"""Images on which channels are looked at unless told otherwise: seconds."""


def check(
    ctx: typer.Context,
    file: Annotated[Path, Flag("FILE", is_argument=True)],
    *,
    asked: CheckOptions,
    image_count: options.ImageCount = None,
    device: options.OnDevice = "auto",
    details: bool = False,
    as_json: options.AsJson = False,
    cnn: Annotated[CnnOptions, Flag(only=("arch", "mean", "std", "input_shape"))],
    images: Annotated[DataRequest, Flag(only=("data", "data_root"))],
) -> None:
    """Check whether a network can run on the target: unsupported layers, overflow, resources.

    Parameters
    ----------
    file
        A .net file or a name of `loihi-convert models`; or a CNN before export: a checkpoint, an ONNX file.
    image_count
        Use the first N validation images to find channels that never fire or fire at every step; 0: skip this. Default:
        100, if the data are available.
    details
        Also print resources of each layer and all sources.
    """
    file = file_of(file)
    from loihi_convert.ground.devices import chosen_device
    from loihi_convert.pipeline import checking

    shape = _input_shape(file, cnn, images)
    candidate = checking.load_file(file, arch=cnn.arch, input_shape=shape, normalization=cnn.normalization)
    known, skipped = _images(ctx, candidate, image_count, images)
    checked = checking.check(
        candidate,
        None if known is None else known.images,
        asked,
        labels=None if known is None else known.labels,
        device="cpu" if known is None else chosen_device(device),
    )
    if as_json:
        say_json(checked_json(checked))
    else:
        say_checked(checked, candidate.recorded.file, details=details)
    if skipped:
        log(skipped)
    if not checked.is_usable:
        raise typer.Exit(InputError.exit_code)


def _input_shape(file: Path, cnn: CnnOptions, images: DataRequest) -> tuple[int, int, int] | None:
    """Return the shape of the images that the CNN in ``file`` takes, if the file does not say it but the options do."""
    if cnn.input_shape is not None or images.data is None:
        return cnn.input_shape
    from loihi_convert.data import load_data
    from loihi_convert.reading.source import is_self_contained

    needs_shape = cnn.arch is not None or is_self_contained(file)
    return load_data(images.data, images.data_root).input_shape if needs_shape else None


def _images(
    ctx: typer.Context, candidate: LoadedFile, count: int | None, images: DataRequest
) -> tuple[Dataset | None, str]:
    """Return the first validation images (for a user's own data, any images). If there are none and the user did not
    request any, also a note on the checks that are skipped."""
    from loihi_convert.pipeline.checking import WITH_THRESHOLDS

    if candidate.network is None:
        for where, given in (("image_count", count), ("data", images.data)):
            if given and candidate.is_external:
                expected = f"is only for CNNs, and for {WITH_THRESHOLDS}"
                raise UsageError(f"found {given}", where=where, expected=expected)
        # The obstacles of a file that is refused are the answer.
        return None, ""
    if count == 0:
        return None, ""
    try:
        splits = images.load_for(candidate.path, candidate.recorded, candidate.network.input_shape)
    except (InputError, UsageError) as error:
        if count is not None or images.data is not None:
            raise
        return None, f"silent and saturated channels are not checked: {rendered(error, flags_of(ctx.command.params))}"
    known, kind = validation_images(splits)
    return known[: first_images(count, _ACTIVITY_IMAGES, len(known), f"{kind} of {splits.name}")], ""


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
    from loihi_convert.ir.network import layer_words

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
    from loihi_convert.chip.partition import span

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
    from loihi_convert.chip.partition import span
    from loihi_convert.ir.network import layer_words

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
