"""`loihi-convert sweep`: many conversions at once, on one machine or on a cluster, from a TOML file, flags or both."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_args

import typer
from pydantic import TypeAdapter, ValidationError

from loihi_convert.batch.places import PlaceOptions
from loihi_convert.batch.setting import OPTIONS, ConversionSetting, ImageChoice
from loihi_convert.cli import options
from loihi_convert.cli.console import flagged, log, on_interrupt
from loihi_convert.cli.options import require_cnn
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.errors import InputError, PlatformError, UsageError, did_you_mean, first_line, one_of
from loihi_convert.ground.choices import DatasetName, SweepCost
from loihi_convert.ground.options import Flag, Option, names_of, one_choice, options_of, parsed
from loihi_convert.pipeline.options import DATA, OWN_CNN, CnnOptions, DataRequest, NetworkFile

if TYPE_CHECKING:
    from loihi_convert.batch.computation import Computation, Outcome
    from loihi_convert.batch.conversion import Grid


def _costs(text: str) -> tuple[SweepCost, ...]:
    known: dict[str, SweepCost] = {cost: cost for cost in get_args(SweepCost)}
    if not set(words := text.split(",")) <= set(known):
        raise ValueError
    return tuple(known[word] for word in words)


_COSTS: Final = Flag("COSTS", parse=_costs, expected=f"{one_of(get_args(SweepCost))}, or several of them")


def sweep(
    files: Annotated[list[Path], Flag("GRID.toml|MODEL...", is_argument=True)],
    *,
    timesteps: Annotated[str | None, Flag("T", "-T,--timesteps")] = None,
    output: options.Output = Path("sweep"),
    against: Annotated[tuple[SweepCost, ...] | None, _COSTS] = None,
    dry_run: bool = False,
    verify: bool = False,
    as_json: options.AsJson = False,
    place_options: PlaceOptions,
    settings: Annotated[dict[str, str], Flag("A,B,C", texts_of=(BalanceOptions, QuantizeOptions), only=OPTIONS)],
    skip_copies: Annotated[str | None, Flag("A,B,C", panel="Balancing")] = None,
    split: Annotated[str | None, Flag("[validation|test]", panel=DATA)] = None,
    image_count: Annotated[str | None, Flag("N", "--images", DATA)] = None,
    calibration: Annotated[str | None, Flag("IMAGES", panel=DATA)] = None,
    network: Annotated[dict[str, str], Flag(texts_of=(DataRequest, CnnOptions))],
    trust: Annotated[bool, Flag(panel=OWN_CNN)] = False,
) -> None:
    """Export and run every combination of options; show the best trade-offs of accuracy and cost.

    Parameters
    ----------
    files
        A TOML file with the grid, or trained CNNs: checkpoints, ONNX files.
    timesteps
        Latencies T, such as 1,4,16. Default: 64.
    output
        Folder for the results; finished cells in it are reused, and several sweeps may share it.
    against
        Costs of the Pareto front, a list of timesteps,synops,energy,cores. Default: all.
    dry_run
        List the cells and an estimate of the time; compute nothing.
    verify
        Compute up to 3 finished cells again, evenly spaced, in this process; exit code 3 if one differs.
    workers
        Number of worker processes on this machine, one core each; 0: compute in this process. Default: one per core if
        Dask is installed, else 0.
    skip_copies
        Relays for each value of a skip connection, 1..8.
    split
        Images that each cell runs: validation (default, so that no setting is chosen on test images) or test. Your own
        images are not split.
    image_count
        Use the first N images.
    calibration
        As for `export`. Default: split.
    trust
        Import and execute the code that the grid file names with `arch`.
    data
        Data set (a name of `loihi-convert data`, such as mnist), a folder of images, or an .npz file. Default: the
        benchmark set the CNN was trained on.
    """
    shard = None if place_options.shard is None else _parse_shard(place_options.shard)
    place = place_options.chosen()
    own = {
        "timesteps": timesteps,
        "skip_copies": skip_copies,
        "split": split,
        "image_count": image_count,
        "calibration": calibration,
    }
    texts = {**settings, **network, **{name: text for name, text in own.items() if text is not None}}
    grid = read_grid(files, {key: texts[name] for key, name in KEYS.items() if name in texts}, trust=trust)
    from loihi_convert.batch.computation import Store, compute_missing, missing, recomputed
    from loihi_convert.batch.conversion import part_of, planned_cells, varied
    from loihi_convert.batch.results import (
        CSV_NAME,
        PAGE_NAME,
        SweepResults,
        cell_words,
        quality,
        quality_words,
    )
    from loihi_convert.batch.sweep_page import write_page
    from loihi_convert.cli.sweep_output import say_dry_run, say_swept
    from loihi_convert.ground.files import write_atomically
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.runs.columns import as_csv

    every = planned_cells(grid, tell=lambda note: log(flagged(note, "export")))
    chosen = every if shard is None else part_of(every, *shard)
    cells, store, names = [planned.cell for planned in chosen], Store(output), varied(grid, every)
    if dry_run:
        say_dry_run(chosen, every, store, names, workers=place.workers, as_json=as_json)
        return
    by_name = {planned.cell.name: planned for planned in chosen}

    def told(cell: Computation[Any], outcome: Outcome, left: str) -> None:
        found = f"failed: {flagged(outcome.error or '', 'export')}"
        if outcome.result is not None:
            found = "done" if quality(outcome.result) is None else quality_words(outcome.result)
        log(f"{cell_words(by_name[cell.name], names)}: {found}{f' ({left})' if left else ''}")

    failed: dict[str, Outcome] = {}
    left = missing(cells, store)
    on_interrupt(lambda: "finished cells are kept; run the same command again to continue")
    if left:
        with place.opened(len(left), output) as workers, progress_bar("sweep"):
            failed = compute_missing(cells, store, workers, told=told)
    if verify:
        with progress_bar("verify"):
            log(recomputed(cells, store))
    outcomes = {planned.cell.name: store.get(planned.cell) or failed.get(planned.cell.name) for planned in every}
    results = SweepResults(every, outcomes, names, against or get_args(SweepCost))
    unsaved: InputError | None = None
    if not results.missing:
        try:
            write_atomically(output / CSV_NAME, as_csv(results.rows))
            write_page(output / PAGE_NAME, results)
        except InputError as error:
            unsaved = error
    say_swept(results, output, computed=len(left), is_saved=unsaved is None, as_json=as_json)
    if unsaved is not None:
        raise unsaved
    if failed:
        number = f"{len(failed)} cell{'s' * (len(failed) > 1)}"
        log(f"{number} failed for a reason outside the network: run the same command again")
        raise typer.Exit(PlatformError.exit_code)
    if results.computed and not results.found:
        raise typer.Exit(InputError.exit_code)


def _parse_shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"found {text!r}", where="shard", expected="must be K/N with 1 <= K <= N, such as 3/20")
    return int(found[1]), int(found[2])


class Typed(NamedTuple):
    """The text of an option: where it stands, and the folder that its paths are relative to."""

    where: str
    text: str
    folder: Path = Path()


_OF_CONVERSION: Final = options_of(BalanceOptions) | options_of(QuantizeOptions)
_OF_CNN: Final = options_of(CnnOptions)
_OF_NETWORK: Final = _OF_CNN | options_of(DataRequest)


def _key(name: str) -> str:
    """Return the flag without dashes of a parameter."""
    option = (_OF_CONVERSION | _OF_NETWORK).get(name)
    return name.replace("_", "-") if option is None else names_of(option)[-1].removeprefix("--")


AXES: Final = {_key(name): options_of(ConversionSetting)[name] for name in OPTIONS}
"""Options of a sweep that may have several values."""

_NETWORK: Final = {_key(name): option for name, option in _OF_NETWORK.items()}
_IMAGES: Final = {
    "images" if name == "image_count" else name: option for name, option in options_of(ImageChoice).items()
}
KEYS: Final = {key: option.name for key, option in (AXES | _NETWORK | _IMAGES).items()}
"""Keys of a TOML file, which are flags without dashes, and the parameters that they set."""


def read_grid(files: list[Path], flags: Mapping[str, str], *, trust: bool = False) -> Grid:
    """Return the grid in ``files``, either one TOML file or the networks, with the given ``flags``, without dashes.

    The code that a TOML file names with ``arch`` is refused unless ``trust`` is set: it would be executed.

    Raises
    ------
    UsageError
        If a key is unknown, or a value impossible.
    InputError
        If the file cannot be read.
    """
    from loihi_convert.batch.conversion import Grid

    file = next((path for path in files if path.suffix == ".toml"), None)
    if file is None:
        networks, of_all = [{"model": Typed("files", str(path))} for path in files], dict[str, Typed]()
    elif len(files) > 1:
        raise UsageError(f"found {len(files)} files", where="files", expected="must be one TOML file, or networks")
    else:
        content = _read_toml(file)
        networks = _listed_networks(file, content.pop("network", None), content.pop("model", None))
        of_all = _typed(file, content, KEYS)
    of_flags = {key: Typed(f"--{key}", text) for key, text in flags.items()}
    if "arch" not in of_flags:
        for table in (*networks, of_all):
            if "arch" in table:
                _require_trusted(table["arch"], trust=trust)
    typed = of_all | of_flags
    values = {option.name: _values(option, typed[key]) for key, option in AXES.items() if key in typed}
    choice = {option.name: _read(option, *typed[key]) for key, option in _IMAGES.items() if key in typed}
    # A network's own table comes before that of all networks, and flags before both.
    return Grid(tuple(_network(of_all | own | of_flags) for own in networks), values, ImageChoice(**choice))


def _require_trusted(arch: Typed, *, trust: bool) -> None:
    """Refuse code named in a file: always with arguments, and without them unless the user says ``trust``."""
    if "(" in arch.text:
        expected = "must be package.module:factory in a file, without arguments"
        raise UsageError(f"found {arch.text!r}", where=arch.where, expected=expected)
    if not trust:
        hint = f"If you trust it, add --trust, or --arch {arch.text} for all networks."
        raise UsageError(f"found {arch.text!r}, code that this would import and execute", where=arch.where, hint=hint)


def _read(option: Option, where: str, text: str, folder: Path = Path()) -> Any:
    """Return ``text`` as a value of ``option``."""
    if option.flag.parse is not None:
        return parsed(option, where, text)
    if option.choices:
        return one_choice(option.choices, where, text)
    try:
        return TypeAdapter(option.kind).validate_python(text)
    except ValidationError:
        expected = "must be yes or no (in a TOML file true or false)" if option.kind is bool else option.expected
        raise UsageError(f"found {text!r}", where=where, expected=expected) from None


def _values(option: Option, typed: Typed) -> list[Any]:
    """Return the values of an option: one, or several without repeats."""
    values = [_read(option, typed.where, part) for part in typed.text.split(",")]
    if len(set(values)) < len(values):
        found = f"found {', '.join(map(str, values))}"
        raise UsageError(found, where=typed.where, expected="must be without repeats")
    return values


def _typed(path: Path, table: Mapping[str, object], known: Iterable[str]) -> dict[str, Typed]:
    """Return the options in a table of the TOML file ``path``, by key."""
    found: dict[str, Typed] = {}
    for key, value in table.items():
        name, where = key.replace("_", "-"), f"{path.name}: {key}"
        if name not in known:
            hint = did_you_mean(name, known) or f"Keys are model, network, {', '.join(known)}."
            raise UsageError(f"found the unknown key {key!r}", where=path, hint=hint)
        if name in found:
            raise UsageError(f"found {key} again", where=found[name].where, expected="must be given once")
        found[name] = Typed(where, _text(where, value), path.parent)
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            found = "not installed, and Python 3.10 cannot read TOML files without it"
            raise PlatformError(found, where="tomli", hint="pip install tomli") from error
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot be read as TOML ({reason})", where=path) from error


def _listed_networks(path: Path, listed: object, models: object) -> list[dict[str, Typed]]:
    """The networks of a TOML file: ``model = [...]``, or tables ``[[network]]``."""
    if listed is None and models is not None:
        listed = [{"model": name} for name in (models if isinstance(models, list) else [models])]
    elif models is not None or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise UsageError(
            "found no networks" if listed is None else "found `network` that is not a list of tables, or `model` too",
            where=path,
            expected='must have model = ["model.pt", ...], or a table [[network]] with model = "..." for each',
        )
    networks = [_typed(path, one, ("model", *_NETWORK)) for one in listed]
    if any("model" not in network for network in networks):
        raise UsageError("found a [[network]] without model", where=path, expected='must have model = "..."')
    return networks


def _network(typed: Mapping[str, Typed]) -> NetworkFile:
    from loihi_convert.ground.files import is_nir

    model = Path(typed["model"].folder, typed["model"].text).absolute()
    require_cnn(model)
    if is_nir(model):
        raise InputError("holds a spiking network, whose thresholds are not balanced again", where=model)
    values = {option.name: _read(option, *typed[key]) for key, option in _NETWORK.items() if key in typed}
    # Workers may run in another folder.
    places = {key: Path(typed[key].folder, typed[key].text) for key in ("data", "data-root") if key in typed}
    if "data-root" in places:
        values["data_root"] = places["data-root"].absolute()
    if "data" in places and places["data"].exists() and values["data"] not in get_args(DatasetName):
        values["data"] = str(places["data"].absolute())
    of_cnn = {name: values.pop(name) for name in _OF_CNN if name in values}
    return NetworkFile(model, CnnOptions(**of_cnn), DataRequest(**values))


def _text(where: str, value: object) -> str:
    """A value of a TOML file as the text of its flag: lists are joined by commas, tables are folder=class pairs."""
    if isinstance(value, list | dict):
        texts = [f"{key}={part}" for key, part in value.items()] if isinstance(value, dict) else value
        parts = [_text(where, part) for part in texts]
        if "," in "".join(parts):
            raise UsageError(f"found {value!r}", where=where, expected="must contain texts without commas")
        return ",".join(parts)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str | int | float):
        raise UsageError(f"found {value!r}", where=where, expected="must be a text, a number or a list of them")
    return str(value)
