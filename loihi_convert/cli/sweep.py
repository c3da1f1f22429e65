"""`loihi-convert sweep`: many conversions at once, on one machine or on a cluster, from a TOML file, flags or both."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer
from pydantic import TypeAdapter, ValidationError

from loihi_convert.batch.places import PlaceOptions
from loihi_convert.batch.setting import OPTIONS, ConversionSetting
from loihi_convert.cli import options
from loihi_convert.cli.console import flagged, log, on_interrupt
from loihi_convert.cli.options import DataRequest, network_file, require_cnn
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.errors import InputError, PlatformError, UsageError, did_you_mean, first_line, one_of
from loihi_convert.ground.choices import DatasetName, SweepCost, SweepSplit
from loihi_convert.ground.options import Flag, Option, names_of, one_choice, options_of

if TYPE_CHECKING:
    from loihi_convert.batch.computation import Computation, Outcome
    from loihi_convert.batch.conversion import Grid
    from loihi_convert.pipeline.options import NetworkFile


def sweep(
    files: Annotated[list[Path], Flag("GRID.toml|MODEL...", is_argument=True)],
    *,
    timesteps: Annotated[str | None, Flag("T", "-T,--timesteps")] = None,
    output: options.Output = Path("sweep"),
    against: Annotated[str | None, Flag("COSTS")] = None,
    dry_run: bool = False,
    as_json: options.AsJson = False,
    place_options: PlaceOptions,
    settings: Annotated[dict[str, str], Flag("A,B,C", texts_of=(BalanceOptions, QuantizeOptions), only=OPTIONS)],
    skip_copies: Annotated[str | None, Flag("A,B,C", panel="Balancing")] = None,
    split: Annotated[str | None, Flag("[validation|test]", panel=options.DATA)] = None,
    image_count: Annotated[str | None, Flag("N", "--images", options.DATA)] = None,
    calibration: Annotated[str | None, Flag("IMAGES", panel=options.DATA)] = None,
    network: Annotated[dict[str, str], Flag(texts_of=(DataRequest, options.CnnOptions))],
    trust: Annotated[bool, Flag(panel=options.OWN_CNN)] = False,
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
        Data set (digits, mnist, fashion-mnist, cifar10), a folder of images, or an .npz file. Default: the benchmark
        set the CNN was trained on.
    """
    shard = None if place_options.shard is None else _parse_shard(place_options.shard)
    place = place_options.chosen()
    costs = get_args(SweepCost) if against is None else _parse_costs(against)
    own = {
        "timesteps": timesteps,
        "skip_copies": skip_copies,
        "split": split,
        "image_count": image_count,
        "calibration": calibration,
    }
    texts = {**settings, **network, **{name: text for name, text in own.items() if text is not None}}
    grid = read_grid(files, {key: texts[name] for key, name in KEYS.items() if name in texts}, trust=trust)
    from loihi_convert.batch.computation import Store, compute_missing, missing
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
        with place.opened(len(left), output) as workers, progress_bar("sweep") as progress:
            failed = compute_missing(cells, store, workers, told=told, progress=progress)
    outcomes = {planned.cell.name: store.get(planned.cell) or failed.get(planned.cell.name) for planned in every}
    results = SweepResults(every, outcomes, names, costs)
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


def _parse_costs(text: str) -> tuple[SweepCost, ...]:
    known = {cost: cost for cost in get_args(SweepCost)}
    words = text.split(",")
    if not set(words) <= set(known):
        raise UsageError(f"found {text!r}", where="against", expected=f"{one_of(known)}, or several of them")
    return tuple(known[word] for word in words)


def _read(option: Option, where: str, value: object) -> Any:
    """Return ``value``, of a TOML file or a flag, as a value of ``option``."""
    try:
        # pydantic takes "8", "yes" and 8.0, and True for 1.
        if isinstance(value, str) or isinstance(value, bool) == (option.kind is bool):
            return TypeAdapter(option.kind).validate_python(value)
    except ValidationError:
        pass
    expected = "must be yes or no (in a TOML file true or false)" if option.kind is bool else option.expected
    raise UsageError(f"found {value!r}", where=where, expected=expected)


_IMAGE_COUNT: Final = Option("image_count", int, None, "", Flag(), "")
_OF_CONVERSION: Final = options_of(BalanceOptions) | options_of(QuantizeOptions)
_OF_NETWORK: Final = options_of(options.CnnOptions) | options_of(DataRequest)


def _key(name: str) -> str:
    """Return the flag without dashes of a parameter."""
    option = (_OF_CONVERSION | _OF_NETWORK).get(name)
    return name.replace("_", "-") if option is None else names_of(option)[-1].removeprefix("--")


AXES: Final = {_key(name): options_of(ConversionSetting)[name] for name in OPTIONS}
"""Options of a sweep that may have several values."""

_NETWORK: Final = {_key(name): name for name in _OF_NETWORK}
_IMAGES: Final = {"split": "split", "images": "image_count", "calibration": "calibration"}
KEYS: Final = {**{key: option.name for key, option in AXES.items()}, **_NETWORK, **_IMAGES}
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
    from loihi_convert.batch.setting import ImageChoice

    file = next((path for path in files if path.suffix == ".toml"), None)
    if file is not None and len(files) > 1:
        raise UsageError(f"found {len(files)} files", where="files", expected="must be one TOML file, or networks")
    given: dict[str, tuple[str, object]] = {}
    of_file: set[str] = set()
    networks: list[Mapping[str, object]] = [{"model": path} for path in files]
    if file is not None:
        content = _read_toml(file)
        networks = _listed_networks(file, content.pop("network", None), content.pop("model", None))
        for key, value in content.items():
            name = _known(key, KEYS, file)
            if name in given:
                raise UsageError(f"found {key} again", where=given[name][0], expected="must be given once")
            given[name] = f"{file.name}: {key}", value
        of_file = given.keys() - flags.keys()
        # Flags override a network's own table, too.
        networks = [{key: value for key, value in own.items() if key not in flags} for own in networks]
    if file is not None and "arch" not in flags:
        every = [value for own in networks if (value := own.get("arch")) is not None]
        for arch in (*every, given["arch"][1]) if "arch" in given else every:
            _require_trusted(f"{file.name}: arch", arch, trust=trust)
    given |= {key: (f"--{key}", text) for key, text in flags.items()}
    values = {option.name: _values(*given[key], option) for key, option in AXES.items() if key in given}
    choice = {key: given[key] for key in _IMAGES if key in given}
    split: Any = one_choice(get_args(SweepSplit), *choice["split"]) if "split" in choice else "validation"
    count = _read(_IMAGE_COUNT, *choice["images"]) if "images" in choice else None
    calibration = str(choice["calibration"][1]) if "calibration" in choice else "split"
    shared: dict[str, tuple[str, object]] = {key: given[key] for key in _NETWORK if key in given}
    return Grid(
        tuple(_network(own, shared, of_file, file) for own in networks), values, ImageChoice(split, count, calibration)
    )


def _require_trusted(where: str, arch: object, *, trust: bool) -> None:
    """Refuse code named in a file: always with arguments, and without them unless the user says ``trust``."""
    if "(" in str(arch):
        raise UsageError(
            f"found {arch!r}", where=where, expected="must be package.module:factory in a file, without arguments"
        )
    if not trust:
        raise UsageError(
            f"found {arch!r}, code that this would import and execute",
            where=where,
            hint=f"If you trust it, add --trust, or --arch {arch} for all networks.",
        )


def _values(where: str, found: object, option: Option) -> list[Any]:
    """Return the values of an option: one, or several without repeats."""
    parts = found.split(",") if isinstance(found, str) else found if isinstance(found, list) else [found]
    known = option.choices
    values = [one_choice(known, where, part) if known else _read(option, where, part) for part in parts]
    if len(set(values)) < len(values):
        raise UsageError(f"found {', '.join(map(str, values))}", where=where, expected="must be without repeats")
    return values


def _known(key: str, known: Iterable[str], path: Path) -> str:
    name = key.replace("_", "-")
    if name in known:
        return name
    hint = did_you_mean(name, known) or f"Keys are model, network, {', '.join(known)}."
    raise UsageError(f"found the unknown key {key!r}", where=path, hint=hint)


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


def _listed_networks(path: Path, listed: object, models: object) -> list[Mapping[str, object]]:
    """The networks of a TOML file: ``model = [...]``, or tables ``[[network]]``."""
    if listed is None and models is not None:
        names = models if isinstance(models, list) else [models]
        return [{"model": _text(f"{path.name}: model", name)} for name in names]
    if models is not None or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise UsageError(
            "found no networks" if listed is None else "found `network` that is not a list of tables, or `model` too",
            where=path,
            expected='must have model = ["model.pt", ...], or a table [[network]] with model = "..." for each',
        )
    for one in listed:
        if "model" not in one:
            raise UsageError("found a [[network]] without model", where=path, expected='must have model = "..."')
    return [{_known(key, ("model", *_NETWORK), path): value for key, value in one.items()} for one in listed]


def _network(
    own: Mapping[str, object], shared: Mapping[str, tuple[str, object]], of_file: Set[str], file: Path | None
) -> NetworkFile:
    """Return a network with the options of its own table, or else those of all networks.

    Paths in the TOML file, of its own table or among the keys ``of_file``, are relative to its folder.
    """
    from loihi_convert.ground.files import is_nir

    folder = Path() if file is None else file.parent

    def text(key: str) -> str | None:
        if key in own:
            return _text(f"{file.name if file else ''}: {key}", own[key])
        return None if key not in shared else _text(*shared[key])

    def place(key: str, path: str) -> Path:
        return Path(folder if key in own or key in of_file else "", path)

    model = Path(folder, str(own["model"])).absolute()
    require_cnn(model)
    if is_nir(model):
        raise InputError("holds a spiking network, whose thresholds are not balanced again", where=model)
    typed = {name: text(key) for key, name in _NETWORK.items()}
    values: dict[str, Any] = {
        name: parse(value) if (parse := _OF_NETWORK[name].flag.parse) else value
        for name, value in typed.items()
        if value is not None
    }
    if "data" in values:
        # Workers may run in another folder.
        path = place("data", values["data"])
        is_path = path.exists() and values["data"] not in get_args(DatasetName)
        values["data"] = str(path.absolute()) if is_path else values["data"]
    if "data_root" in values:
        values["data_root"] = place("data-root", values["data_root"]).absolute()
    of_cnn = options_of(options.CnnOptions)
    cnn = options.CnnOptions(**{name: value for name, value in values.items() if name in of_cnn})
    return network_file(
        model, cnn, DataRequest(**{name: value for name, value in values.items() if name not in of_cnn})
    )


def _text(where: str, value: object) -> str:
    """One value as the text of its flag: lists are joined by commas, tables are folder=class pairs."""
    if isinstance(value, list | dict):
        texts = [f"{key}={part}" for key, part in value.items()] if isinstance(value, dict) else value
        parts = [_text(where, part) for part in texts]
        if "," in "".join(parts):
            raise UsageError(f"found {value!r}", where=where, expected="must contain texts without commas")
        return ",".join(parts)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"found {value!r}", where=where, expected="must be a text, a number or a list of them")
    return str(value)
