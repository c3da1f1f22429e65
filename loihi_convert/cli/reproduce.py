"""`loihi-convert reproduce`: the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from loihi_convert.choices import PaperFigure, PaperTable
from loihi_convert.cli import cluster, options
from loihi_convert.cli.console import echo, log, on_interrupt, say_json, say_tables
from loihi_convert.cli.options import BASICS, DATA, named, number, switch
from loihi_convert.errors import UsageError, did_you_mean, one_of
from loihi_convert.report.figure_style import Width

if TYPE_CHECKING:
    from loihi_convert.reproduction.exhibits import Exhibit
    from loihi_convert.reproduction.flow import Reproduced

_TABLES, _FIGURES = get_args(PaperTable), get_args(PaperFigure)
_ALL = "all"
_READY_MADE = ("mnist", "fashion-mnist", "cifar10")

_WHAT = typer.Argument(
    help=(
        f"table NAME ({', '.join(_TABLES[:-1])}), figure NAME ({', '.join(_FIGURES)}), headline: the numbers of the "
        "abstract, or all: every table and figure."
    ),
    metavar="WHAT",
    show_default=False,
)
_MODELS = (
    "A ready-made model of the repository (mnist, fashion-mnist, cifar10), or a checkpoint of `train`. Repeat it "
    "for tables of several data sets. Default for all: the ready-made ones."
)
_TUNED = "Fine-tuned checkpoint that may be the best for some T. Ready-made models bring their own."
_VARIANTS_HELP = (
    "Measurement variants, one column each, such as literal,spikes; --variants help explains them. Default: "
    "literal,spikes,compensated for tables, literal for figures."
)
_CALIBRATION = "Calibration images: all (training and validation images), split, or a number (first N of the split)."
_CACHE = "Folder of computed results, which several commands may share; default: OUTPUT."
_LONG_IMAGES = (
    "For T > 64, use the first N test images and balance on the calibration split; default: as for smaller T."
)
_WIDTH = "Width of a figure: a column (85 mm) or a page (178 mm) of a paper, or a screen."
_TABLES_HELP = "Draw the figure from CSV tables written earlier; measure nothing. Repeat for several tables."

_REDRAWN: Final = frozenset({"what", "variants", "tables", "output", "width", "as_json"})
"""Parameters that apply to a figure drawn from tables."""


def reproduce(
    ctx: typer.Context,
    what: Annotated[list[str] | None, _WHAT] = None,
    models: Annotated[list[str] | None, named("--model", BASICS, _MODELS, metavar="MODEL")] = None,
    variants: Annotated[str | None, named("--variants", BASICS, _VARIANTS_HELP, metavar="A,B")] = None,
    timesteps: Annotated[
        str | None, options.timesteps("Only these time steps, as in 4,8; default: the paper's.")
    ] = None,
    methods: Annotated[
        str | None, named("--methods", BASICS, "Only these methods; default: the paper's.", metavar="A,B")
    ] = None,
    image_count: Annotated[int | None, options.images("test images; default: all.")] = None,
    output: Annotated[Path, options.output("Folder to write; results in it are reused.")] = Path("reproduced"),
    device: options.OnDevice = "cpu",
    as_json: options.AsJson = False,
    workers: cluster.CellWorkers = None,
    scheduler: cluster.Scheduler = None,
    slurm: cluster.Slurm = None,
    calibration: Annotated[str, number("--calibration", DATA, _CALIBRATION, metavar="IMAGES")] = "all",
    long_images: Annotated[int | None, named("--long-images", DATA, _LONG_IMAGES, metavar="N")] = None,
    long_calibration: Annotated[
        int | None, named("--long-calibration", DATA, "Use N calibration images for T > 64.", metavar="N")
    ] = None,
    rate_images: Annotated[
        int | None, named("--rate-images", DATA, "Test images of figure 7; default: at most 1,000.", metavar="N")
    ] = None,
    data_root: Annotated[Path | None, options.data_root(DATA)] = None,
    weight_bits: Annotated[int, options.weight_bits("Measuring")] = 8,
    poisson_seed: Annotated[int, options.seed("Measuring", "Seed of the Poisson input.")] = 0,
    width: Annotated[Width, options.choice(Width, "--width", options.OUTPUT, _WIDTH)] = "screen",
    tables: Annotated[list[Path] | None, named("--from", options.OUTPUT, _TABLES_HELP, metavar="CSV")] = None,
    with_best: Annotated[bool, switch("--best/--no-best", "Measuring", "Also measure this package's best.")] = True,
    tuned: Annotated[list[Path] | None, named("--tuned", "Measuring", _TUNED, metavar="MODEL")] = None,
    cache: Annotated[Path | None, named("--cache", "Measuring", _CACHE, metavar="FOLDER")] = None,
    computed_only: Annotated[
        bool, switch("--computed-only", "Measuring", "Show computed results; compute nothing.")
    ] = False,
) -> None:
    """Measure tables and figures of Ngu & Lee 2022 on your networks, beside the paper's numbers."""
    if variants == "help":
        _say_variants(as_json=as_json)
        return
    if tables and what == [_ALL]:
        raise UsageError("given for all", where="tables", expected="needs one figure, such as figure 6")
    from loihi_convert.reproduction.exhibits import EXHIBITS

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
    steps = None if timesteps is None else options.parse_timesteps(timesteps)
    from loihi_convert.devices import chosen_device
    from loihi_convert.progress import progress_bar
    from loihi_convert.reproduction.flow import reproduce as reproduced
    from loihi_convert.reproduction.images import Counts
    from loihi_convert.reproduction.request import Request
    from loihi_convert.reproduction.variants import chosen_variants

    is_default = workers is None and scheduler is None and slurm is None
    # Several processes on one GPU would not be faster.
    is_alone = is_default and chosen_device(device) != "cpu"
    place = cluster.chosen_place(workers, scheduler, slurm, default=0 if is_alone else None)
    request = Request(
        exhibits=tuple(EXHIBITS.values()) if one is None else (one,),
        models=tuple(models or _READY_MADE),
        tuned=tuple(tuned or ()),
        output=output,
        cache=cache,
        variants=None if names is None else chosen_variants(names),
        methods=None if methods is None else tuple(methods.split(",")),
        timesteps=steps,
        counts=Counts(calibration, image_count, long_images, long_calibration, rate_images),
        weight_bits=weight_bits,
        poisson_seed=poisson_seed,
        with_best=with_best,
        computed_only=computed_only,
        device=place.device(device),
        data_root=data_root,
        width=width,
    )
    on_interrupt(lambda: "finished results are kept; run the same command again to continue")
    found = reproduced(request, lambda most: place.executor(most, output), tell=log, bars=progress_bar)
    _say(found.done, as_json=as_json)
    if found.failed:
        log(f"{found.failed} results failed for a reason outside the network: run the same command again for them")
        raise typer.Exit(cluster.FAILED)


def _redraw(
    figure: Exhibit, tables: list[Path], variants: list[str] | None, output: Path, width: Width, *, as_json: bool
) -> None:
    """Draw a figure from CSV tables."""
    from loihi_convert.reproduction.flow import redraw
    from loihi_convert.reproduction.variants import DEFAULT_VARIANTS

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
    from loihi_convert.reproduction.exhibits import EXHIBITS

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
    from loihi_convert.report.table import Table
    from loihi_convert.reproduction.variants import VARIANTS

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
    from loihi_convert.reproduction.page import order_sentences, refused, terminal_tables

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

    from loihi_convert.reproduction.tables import csv_table

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
