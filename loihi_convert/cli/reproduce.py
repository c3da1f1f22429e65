"""`loihi-convert reproduce`: the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from loihi_convert.batch.places import NO_SHARD, PlaceOptions
from loihi_convert.choices import PaperFigure, PaperTable
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, on_interrupt, say_json, say_tables
from loihi_convert.cli.images import DataRequest
from loihi_convert.conversion.options import QuantizeOptions
from loihi_convert.errors import PlatformError, UsageError, did_you_mean, one_of
from loihi_convert.options import Flag, parse_timesteps
from loihi_convert.report.figure_style import Width

if TYPE_CHECKING:
    from loihi_convert.paper.exhibits import Exhibit
    from loihi_convert.paper.flow import Reproduced

_TABLES, _FIGURES = get_args(PaperTable), get_args(PaperFigure)
_ALL = "all"
_READY_MADE = ("mnist", "fashion-mnist", "cifar10")

MEASURING: Final = "Measuring"
_REDRAWN: Final = frozenset({"what", "variants", "tables", "output", "width", "as_json"})
"""Parameters that apply to a figure drawn from tables."""


def reproduce(
    ctx: typer.Context,
    what: Annotated[list[str] | None, Flag("WHAT", is_argument=True)] = None,
    *,
    models: Annotated[list[str] | None, Flag("MODEL", "--model")] = None,
    variants: Annotated[str | None, Flag("A,B")] = None,
    timesteps: Annotated[tuple[int, ...] | None, Flag("T", "-T,--timesteps", parse=parse_timesteps)] = None,
    methods: Annotated[str | None, Flag("A,B")] = None,
    image_count: options.ImageCount = None,
    output: options.Output = Path("reproduced"),
    device: options.OnDevice = "cpu",
    as_json: options.AsJson = False,
    place_options: Annotated[PlaceOptions, Flag(only=NO_SHARD)],
    calibration: Annotated[str, Flag("IMAGES", panel=options.DATA)] = "all",
    long_images: Annotated[int | None, Flag(panel=options.DATA)] = None,
    long_calibration: Annotated[int | None, Flag(panel=options.DATA)] = None,
    rate_images: Annotated[int | None, Flag(panel=options.DATA)] = None,
    images: Annotated[DataRequest, Flag(only=("data_root",))],
    quantization: Annotated[QuantizeOptions, Flag(panel=MEASURING, only=("weight_bits",))],
    poisson_seed: Annotated[int, Flag(name="--seed", panel=MEASURING)] = 0,
    width: Annotated[Width, Flag(panel=options.OUTPUT)] = "screen",
    tables: Annotated[list[Path] | None, Flag("CSV", "--from", options.OUTPUT)] = None,
    with_best: Annotated[bool, Flag(name="--best", panel=MEASURING)] = True,
    tuned: Annotated[list[Path] | None, Flag("MODEL", panel=MEASURING)] = None,
    cache: Annotated[Path | None, Flag("FOLDER", panel=MEASURING)] = None,
    computed_only: Annotated[bool, Flag(panel=MEASURING)] = False,
) -> None:
    """Measure tables and figures of Ngu & Lee 2022 on your networks, beside the paper's numbers.

    Parameters
    ----------
    what
        table NAME (2, 3, A2, A3, A4), figure NAME (6, 7, 8, 9, 11, 12, A4, A5), headline: the numbers of the abstract,
        or all: every table and figure.
    models
        A ready-made model of the repository (mnist, fashion-mnist, cifar10), or a checkpoint of `train`. Repeat it for
        tables of several data sets. Default for all: the ready-made ones.
    variants
        Measurement variants, one column each, such as literal,spikes; `variants='help'` explains them. Default:
        literal,spikes,compensated for tables, literal for figures.
    timesteps
        Only these time steps, as in 4,8. Default: the paper's.
    methods
        Only these methods. Default: the paper's.
    image_count
        Use the first N test images. Default: all.
    output
        Folder to write; results in it are reused.
    workers
        Number of worker processes on this machine, one core each; 0: compute in this process. Default: one per core if
        Dask is installed, else 0.
    calibration
        Calibration images: all (training and validation images), split, or a number (first N of the split).
    long_images
        For T > 64, use the first N test images and balance on the calibration split. Default: as for smaller T.
    long_calibration
        Use N calibration images for T > 64.
    rate_images
        Test images of figure 7. Default: at most 1,000.
    poisson_seed
        Seed of the Poisson input.
    width
        Width of a figure: a column (85 mm) or a page (178 mm) of a paper, or a screen.
    tables
        Draw the figure from CSV tables written earlier; measure nothing. Repeat for several tables.
    with_best
        Also measure this package's best.
    tuned
        Fine-tuned checkpoint that may be the best for some T. Ready-made models bring their own.
    cache
        Folder of computed results, which several commands may share. Default: OUTPUT.
    computed_only
        Show computed results; compute nothing.
    """
    if variants == "help":
        _say_variants(as_json=as_json)
        return
    if tables and what == [_ALL]:
        raise UsageError("given for all", where="tables", expected="needs one figure, such as figure 6")
    from loihi_convert.paper.exhibits import EXHIBITS

    one = None if what == [_ALL] else _exhibit(what)
    names = None if variants is None else variants.split(",")
    if one is not None:
        if tables:
            expected = "must be left out: nothing is run"
            options.refuse_others(ctx, _REDRAWN, "given together with `tables`", expected=expected)
            _redraw(one, tables, names, output, width, as_json=as_json)
            return
        if not models:
            hint = "Pass mnist, fashion-mnist or cifar10, or a checkpoint."
            raise UsageError("not given", where="models", expected=f"{one} needs a network", hint=hint)
        if one.kind == "table" and options.is_given(ctx, "width"):
            raise UsageError("given for a table", where="width", expected="is for figures")
        if one.shows != "rates" and rate_images is not None:
            usable = " and ".join(str(each) for each in EXHIBITS.values() if each.shows == "rates")
            raise UsageError(f"given for {one}", where="rate_images", expected=f"is for {usable}")
    if tuned and not with_best:
        raise UsageError("given without the best", where="tuned", expected="needs `best`")
    from loihi_convert.devices import chosen_device
    from loihi_convert.paper.flow import reproduce as reproduced
    from loihi_convert.paper.images import Counts
    from loihi_convert.paper.request import Request
    from loihi_convert.paper.variants import chosen_variants
    from loihi_convert.progress import progress_bar

    # Several processes on one GPU would not be faster.
    is_alone = not place_options.given and chosen_device(device) != "cpu"
    place = place_options.chosen(default=0 if is_alone else None)
    request = Request(
        exhibits=tuple(EXHIBITS.values()) if one is None else (one,),
        models=tuple(models or _READY_MADE),
        tuned=tuple(tuned or ()),
        output=output,
        cache=cache,
        variants=None if names is None else chosen_variants(names),
        methods=None if methods is None else tuple(methods.split(",")),
        timesteps=timesteps,
        counts=Counts(calibration, image_count, long_images, long_calibration, rate_images),
        weight_bits=quantization.weight_bits,
        poisson_seed=poisson_seed,
        with_best=with_best,
        computed_only=computed_only,
        device=place.device(device),
        data_root=images.data_root,
        width=width,
    )
    on_interrupt(lambda: "finished results are kept; run the same command again to continue")
    found = reproduced(request, lambda most: place.opened(most, output), tell=log, bars=progress_bar)
    _say(found.done, as_json=as_json)
    if found.failed:
        log(f"{found.failed} results failed for a reason outside the network: run the same command again for them")
        raise typer.Exit(PlatformError.exit_code)


def _redraw(
    figure: Exhibit, tables: list[Path], variants: list[str] | None, output: Path, width: Width, *, as_json: bool
) -> None:
    """Draw a figure from CSV tables."""
    from loihi_convert.paper.flow import redraw
    from loihi_convert.paper.variants import DEFAULT_VARIANTS

    if figure.kind != "figure":
        raise UsageError(f"given for {figure}", where="tables", expected="is for figures")
    _say([redraw(figure, tables, variants or DEFAULT_VARIANTS["figure"], output, width)], as_json=as_json)


def _exhibit(words: list[str] | None) -> Exhibit:
    """Return the requested table or figure.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    from loihi_convert.paper.exhibits import EXHIBITS

    match words or []:
        case ["headline"]:
            return EXHIBITS["table", "headline"]
        case ["table", name]:
            return EXHIBITS["table", _known(name, _TABLES, "table")]
        case ["figure", name]:
            return EXHIBITS["figure", _known(name, _FIGURES, "figure")]
    raise UsageError(
        f"found {' '.join(words or ()) or 'nothing'}",
        where="reproduce",
        expected="must be table NAME, figure NAME, headline, or all",
        hint=f"Tables are {', '.join(_TABLES)}; figures are {', '.join(_FIGURES)}.",
    )


def _known(name: str, names: tuple[str, ...], kind: str) -> str:
    if name in names:
        return name
    raise UsageError(f"found {name}", where=kind, expected=one_of(names), hint=did_you_mean(name.upper(), names))


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
    from loihi_convert.paper.page import order_sentences, refused, terminal_tables

    tables = [done for done in found if done.exhibit.kind == "table"]
    for done in tables:
        say_tables(terminal_tables(done.exhibit.title, done.entries, done.bests))
        for sentence in (*done.notes, *order_sentences(done.entries), *refused(done.entries)):
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
