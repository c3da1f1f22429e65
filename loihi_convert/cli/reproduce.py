"""`loihi-convert reproduce`: the paper's tables and figures."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from loihi_convert.choices import Device, PaperFigure, PaperTable
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say_json, say_tables
from loihi_convert.cli.options import BASICS, DATA, named, number, switch
from loihi_convert.errors import UsageError, one_of
from loihi_convert.report.figure_style import Width

if TYPE_CHECKING:
    from loihi_convert.reproduction.flow import Reproduced

_TABLES, _FIGURES = get_args(PaperTable), get_args(PaperFigure)
_HEADLINE = "headline"
_HELP = "help"
_VARIANTS = {"table": "literal,spikes,compensated", "figure": "literal"}

_WHAT = typer.Argument(
    help=(
        f"table NAME ({', '.join(_TABLES[:-1])}), figure NAME ({', '.join(_FIGURES)}), or headline: the numbers of the "
        "abstract."
    ),
    metavar="WHAT",
    show_default=False,
)
_MODELS = (
    "A ready-made model of the repository (mnist, fashion-mnist, cifar10), or a checkpoint of `train`. Repeat it "
    "for tables of several data sets."
)
_TUNED = "Fine-tuned checkpoint that may be the best for some T. Ready-made models bring their own."
_VARIANTS_HELP = (
    "Variants of measuring a cell, one column each, such as literal,spikes; help explains them. Default: "
    f"{_VARIANTS['table']} for tables, {_VARIANTS['figure']} for figures."
)
_CALIBRATION = "Calibration images: all (training and validation images), split, or a number (first N of the split)."
_CACHE = "Folder of computed results; default: OUTPUT/computed."
_LONG_IMAGES = (
    "For T > 64, use the first N test images and balance on the calibration split; default: as for smaller T."
)


_WIDTH = "Width of a figure: a column (85 mm) or a page (178 mm) of a paper, or a screen."
_TABLES_HELP = "Draw the figure from CSV tables written earlier; measure nothing. Repeat for several tables."


def reproduce(
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
    device: Annotated[Device, options.device()] = "cpu",
    as_json: Annotated[bool, options.as_json()] = False,
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
    with_best: Annotated[bool, switch("--best/--no-best", "Measuring", "Also measure the best of our methods.")] = True,
    tuned: Annotated[list[Path] | None, named("--tuned", "Measuring", _TUNED, metavar="MODEL")] = None,
    cache: Annotated[Path | None, named("--cache", "Measuring", _CACHE, metavar="FOLDER")] = None,
    computed_only: Annotated[
        bool, switch("--computed-only", "Measuring", "Show computed results; compute nothing.")
    ] = False,
) -> None:
    """Measure a table or figure of Ngu & Lee 2022 on your networks, beside the paper's numbers."""
    if variants == _HELP:
        _say_variants()
        return
    kind, name = _kind_and_name(what)
    chosen_names = (variants or _VARIANTS[kind]).split(",")
    if tables:
        _redraw(kind, name, tables, chosen_names, output, width, as_json=as_json)
        return
    if not models:
        hint = "Pass mnist, fashion-mnist or cifar10, or a checkpoint."
        raise UsageError("not given", where="models", expected=f"{kind} {name} needs a network", hint=hint)
    steps = None if timesteps is None else options.parse_timesteps(timesteps)
    from loihi_convert.devices import chosen_device
    from loihi_convert.progress import progress_bar
    from loihi_convert.reproduction.flow import reproduce as reproduced
    from loihi_convert.reproduction.paper_cells import chosen_variants
    from loihi_convert.reproduction.request import ImageCounts, Request

    chosen = chosen_variants(chosen_names)
    request = Request(
        kind,
        name,
        tuple(models),
        tuple(tuned or ()),
        output,
        cache,
        chosen,
        None if methods is None else tuple(methods.split(",")),
        steps,
        ImageCounts(calibration, image_count, long_images, long_calibration, rate_images),
        weight_bits,
        poisson_seed,
        with_best,
        computed_only,
        chosen_device(device),
        data_root,
        width,
    )
    done = reproduced(request, tell=log, bars=progress_bar)
    if as_json:
        _say_json(done)
    else:
        _say(done, is_table=kind == "table")


def _redraw(
    kind: str, name: str, tables: list[Path], variants: list[str], output: Path, width: Width, *, as_json: bool
) -> None:
    """Draw a figure from CSV tables."""
    from loihi_convert.reproduction.flow import redraw

    if kind != "figure":
        raise UsageError(f"given for {kind} {name}", where="tables", expected="is for figures")
    done = redraw(name, tables, variants, output, width)
    if as_json:
        _say_json(done)
    else:
        _say(done, is_table=False)


def _kind_and_name(what: list[str] | None) -> tuple[Literal["table", "figure"], str]:
    """Return the kind and name of the requested table or figure.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    match what or []:
        case ["headline"]:
            return "table", _HEADLINE
        case ["table", name]:
            return "table", _known(name, _TABLES, "table")
        case ["figure", name]:
            return "figure", _known(name, _FIGURES, "figure")
    raise UsageError(
        f"found {' '.join(what or ()) or 'nothing'}",
        where="reproduce",
        expected="must be table NAME, figure NAME, or headline",
        hint=f"Tables are {', '.join(_TABLES)}; figures are {', '.join(_FIGURES)}.",
    )


def _known(name: str, names: tuple[str, ...], kind: str) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(name.upper(), names, n=1)
    hint = f"Did you mean {near[0]}?" if near else ""
    raise UsageError(f"found {name}", where=kind, expected=one_of(names), hint=hint)


def _say_variants() -> None:
    from loihi_convert.report.table import Table
    from loihi_convert.reproduction.paper_cells import VARIANTS

    rows = tuple((variant.name, variant.description) for variant in VARIANTS.values())
    echo("The paper leaves open how its numbers were measured, so a cell can be measured in several ways.")
    echo("Choose some, as in --variants literal,spikes. Each is a column of the table.")
    say_tables([Table("", ("variant", "how a cell is measured"), rows, text_columns=2)])


def _say(done: Reproduced, *, is_table: bool) -> None:
    from loihi_convert.reproduction.page import order_sentences, refused, terminal_tables

    if is_table:
        say_tables(terminal_tables(done.title, done.entries, done.bests))
        for sentence in (*done.notes, *order_sentences(done.entries), *refused(done.entries)):
            echo(f"- {sentence}")
        echo("- meaning of the columns: loihi-convert reproduce --variants help")
    for warning in done.warnings:
        log(f"warning: {warning}")
    for path in done.files:
        echo(f"wrote {path}")


def _say_json(done: Reproduced) -> None:
    import csv

    from loihi_convert.reproduction.tables import csv_table

    rows = list(csv.DictReader(csv_table(done.entries, done.bests).splitlines())) if done.entries else []
    say_json(
        {
            "title": done.title,
            "files": [str(path) for path in done.files],
            "rows": rows,
            "notes": done.notes,
            "warnings": done.warnings,
        }
    )
