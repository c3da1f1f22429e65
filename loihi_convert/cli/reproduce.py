"""`loihi-convert reproduce`: the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from loihi_convert.batch.places import NO_SHARD, PlaceOptions
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, on_interrupt, say_json, say_tables
from loihi_convert.errors import PlatformError, UsageError, did_you_mean, one_of
from loihi_convert.ground.choices import PaperFigure, PaperTable
from loihi_convert.ground.options import Flag
from loihi_convert.paper.variants import PaperOptions

if TYPE_CHECKING:
    from loihi_convert.paper.plan import Reproduced
    from loihi_convert.paper.variants import Exhibit

_ALL: Final = ["all"]


def reproduce(
    ctx: typer.Context,
    what: Annotated[list[str] | None, Flag("WHAT", is_argument=True)] = None,
    *,
    asked: PaperOptions,
    device: options.OnDevice = "cpu",
    as_json: options.AsJson = False,
    place_options: Annotated[PlaceOptions, Flag(only=NO_SHARD)],
) -> None:
    """Measure tables and figures of Ngu & Lee 2022 on your networks, beside the paper's numbers.

    Parameters
    ----------
    what
        table NAME (2, 3, A2, A3, A4), figure NAME (6, 7, 8, 9, 11, 12, A4, A5), headline: the numbers of the abstract,
        or all: every table and figure.
    workers
        Number of worker processes on this machine, one core each; 0: compute in this process. Default: one per core if
        Dask is installed, else 0.
    """
    if asked.variants == ("help",):
        _say_variants(as_json=as_json)
        return
    from loihi_convert.paper.variants import EXHIBITS

    exhibits = tuple(EXHIBITS.values()) if what == _ALL else (_exhibit(what),)
    if what != _ALL:
        _require_effect(ctx, exhibits[0], asked)
    from loihi_convert.ground.devices import chosen_device
    from loihi_convert.paper import plan

    # Several processes on one GPU would not be faster.
    is_alone = not place_options.given and chosen_device(device) != "cpu"
    place = place_options.chosen(default=0 if is_alone else None)
    on_interrupt(lambda: "finished results are kept; run the same command again to continue")
    done, failed = plan.reproduce(
        exhibits,
        asked,
        lambda most: place.opened(most, asked.output),
        device=place.device(device),
        tell=log,
    )
    _say(done, as_json=as_json)
    if failed:
        log(f"{failed} results failed for a reason outside the network: run the same command again for them")
        raise typer.Exit(PlatformError.exit_code)


def _require_effect(ctx: typer.Context, one: Exhibit, asked: PaperOptions) -> None:
    """Raise a `UsageError` if an option is without effect on a single table or figure, or it has no network."""
    if not asked.models:
        expected = f"{one} needs mnist, fashion-mnist or cifar10, or a checkpoint"
        raise UsageError("not given", where="models", expected=expected)
    if one.kind == "table" and options.is_given(ctx, "width"):
        raise UsageError("given for a table", where="width", expected="is for figures")
    if one.shows != "rates" and asked.rate_images is not None:
        raise UsageError(f"given for {one}", where="rate_images", expected="is for figure 7")


def _exhibit(words: list[str] | None) -> Exhibit:
    """Return the requested table or figure; raise a `UsageError` if the name is unknown."""
    from loihi_convert.paper.variants import EXHIBITS

    match words or []:
        case ["headline"]:
            return EXHIBITS["table", "headline"]
        case ["table" | "figure" as kind, name]:
            names = get_args(PaperTable if kind == "table" else PaperFigure)
            if name not in names:
                hint = did_you_mean(name.upper(), names)
                raise UsageError(f"found {name}", where=kind, expected=one_of(names), hint=hint)
            return EXHIBITS[kind, name]
    raise UsageError(
        f"found {' '.join(words or ()) or 'nothing'}",
        where="reproduce",
        expected=f"must be table {'|'.join(get_args(PaperTable))}, figure {'|'.join(get_args(PaperFigure))}, or all",
    )


def _say_variants(*, as_json: bool) -> None:
    from loihi_convert.paper.variants import VARIANTS
    from loihi_convert.report.table import Table

    rows = tuple((variant.name, variant.description) for variant in VARIANTS.values())
    if as_json:
        say_json({"variants": dict(rows)})
        return
    echo("The paper leaves open how its numbers were measured, so a cell can be measured in several ways.")
    echo("Choose some, as in --variants literal,spikes. Each is a column of the table.")
    say_tables([Table("", ("variant", "how a cell is measured"), rows, text_columns=2)])


def _say(found: Sequence[Reproduced], *, as_json: bool) -> None:
    if as_json:
        _say_json(found)
        return
    from loihi_convert.paper.tables import refused, shown_tables

    tables = [done for done in found if done.exhibit.kind == "table"]
    for done in tables:
        accuracies, _, *best = shown_tables(done.entries, done.bests)
        say_tables([replace(accuracies, title=f"{done.exhibit.title}: accuracy, %"), *best])
        for sentence in (*done.notes, *refused(done.entries)):
            echo(f"- {sentence}")
    if tables:
        echo("- meaning of the columns: loihi-convert reproduce --variants help")
    for done in found:
        several = f"{done.exhibit.title}: " if len(found) > 1 else ""
        for warning in done.warnings:
            log(f"warning: {several}{warning}")
    for done in found:
        for path in done.files:
            echo(f"wrote {path}")


def _say_json(several: Sequence[Reproduced]) -> None:
    import csv

    from loihi_convert.paper.tables import csv_table

    found = [
        {
            "title": done.exhibit.title,
            "files": [str(path) for path in done.files],
            "rows": list(csv.DictReader(csv_table(done.entries, done.bests).splitlines())) if done.entries else [],
            "notes": done.notes,
            "warnings": done.warnings,
        }
        for done in several
    ]
    say_json(found[0] if len(found) == 1 else {"results": found})
