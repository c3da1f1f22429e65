"""The grid of a sweep, from a TOML file, from flags, or from both: flags replace what the file says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from loihi_convert.choices import (
    Amplitude,
    AnyMethod,
    DatasetName,
    Granularity,
    InitialPotential,
    InputCoding,
    Readout,
    Reset,
    SweepSplit,
    Target,
    Task,
)
from loihi_convert.cli import options
from loihi_convert.errors import InputError, PlatformError, UsageError, did_you_mean

if TYPE_CHECKING:
    from loihi_convert.sweep.grid import Grid
    from loihi_convert.sweep.setting import NetworkFile

_Parse = Callable[[str, object], Any]


class _Axis(NamedTuple):
    """An option of a sweep that may have several values: its name in the library, and how one value is read."""

    option: str
    parse: _Parse


def _whole(where: str, value: object) -> int:
    try:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise UsageError(f"found {value!r}", where=where, expected="must be a whole number")


def _number(where: str, value: object) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise UsageError(f"found {value!r}", where=where, expected="must be a number")


def _yes(where: str, value: object) -> bool:
    found = {"yes": True, "no": False}.get(value) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise UsageError(f"found {value!r}", where=where, expected="must be yes or no (in a TOML file true or false)")
    return found


def _one_of(choices: object) -> _Parse:
    return lambda where, value: options.one_choice(get_args(choices), where, value)


AXES: Final = {
    "timesteps": _Axis("timesteps", _whole),
    "balance": _Axis("method", _one_of(AnyMethod)),
    "percentile": _Axis("percentile", _number),
    "alpha": _Axis("alpha", _number),
    "amplitude": _Axis("amplitude", _one_of(Amplitude)),
    "initial-potential": _Axis("initial_potential", _one_of(InitialPotential)),
    "reset": _Axis("reset", _one_of(Reset)),
    "readout": _Axis("readout", _one_of(Readout)),
    "input": _Axis("input_coding", _one_of(InputCoding)),
    "seed": _Axis("poisson_seed", _whole),
    "bias-correction": _Axis("bias_correction", _yes),
    "thresholds": _Axis("thresholds", _one_of(Granularity)),
    "weight-bits": _Axis("weight_bits", _whole),
    "pixel-bits": _Axis("pixel_bits", _whole),
    "target": _Axis("target", _one_of(Target)),
    "split-readout": _Axis("split_readout", _yes),
    "skip-copies": _Axis("skip_copies", _whole),
}
"""By flag."""

_NETWORK: Final = ("arch", "input-shape", "classes", "mean", "std", "task", "data", "data-root", "class-map")
_IMAGES: Final = ("split", "images", "calibration")
KEYS: Final = (*AXES, *_NETWORK, *_IMAGES)
"""Keys of a TOML file, and flags without dashes."""


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
    from loihi_convert.sweep.grid import Grid
    from loihi_convert.sweep.setting import ImageChoice

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
    values = {axis.option: _values(*given[key], axis.parse) for key, axis in AXES.items() if key in given}
    choice = {key: given[key] for key in _IMAGES if key in given}
    split: Any = _one_of(SweepSplit)(*choice["split"]) if "split" in choice else "validation"
    count = _whole(*choice["images"]) if "images" in choice else None
    calibration = str(choice["calibration"][1]) if "calibration" in choice else "split"
    shared: dict[str, tuple[str, object]] = {key: given[key] for key in _NETWORK if key in given}
    return Grid(
        tuple(_network(own, shared, of_file, file) for own in networks),
        values,
        ImageChoice(split, count, calibration),
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


def _values(where: str, found: object, parse: _Parse) -> list[Any]:
    """Return the values of an option: one, or several without repeats."""
    parts = found.split(",") if isinstance(found, str) else found if isinstance(found, list) else [found]
    values = [parse(where, part) for part in parts]
    if len(set(values)) < len(values):
        raise UsageError(f"found {', '.join(map(str, values))}", where=where, expected="must be without repeats")
    return values


def _known(key: str, known: tuple[str, ...], path: Path) -> str:
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
            hint = "Run: pip install tomli. Or give the grid as flags."
            raise PlatformError("Python 3.10 cannot read TOML files", where="tomli", hint=hint) from error
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot be read ({reason})", where=path) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML ({error})", where=path) from error
    except RecursionError as error:
        raise InputError("nested too deeply", where=path) from error


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
    own: Mapping[str, object],
    shared: Mapping[str, tuple[str, object]],
    of_file: Set[str],
    file: Path | None,
) -> NetworkFile:
    """Return a network with the options of its own table, or else those of all networks.

    Paths in the TOML file, of its own table or among the keys ``of_file``, are relative to its folder.
    """
    from loihi_convert.cli.wrong_files import require_cnn
    from loihi_convert.file_kinds import is_nir
    from loihi_convert.sweep.setting import NetworkFile

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
        hint = "`loihi-convert export` keeps them."
        raise InputError("holds a spiking network, whose thresholds are not balanced again", where=model, hint=hint)
    normalization = options.parse_normalization(text("mean"), text("std"))
    data = text("data")
    if data is not None:
        # Workers may run in another folder.
        path = place("data", data)
        data = str(path.absolute()) if path.exists() and data not in get_args(DatasetName) else data
    class_map = options.parse_class_map(text("class-map"))
    task = text("task")
    root = text("data-root")
    return NetworkFile(
        model=model,
        arch=text("arch"),
        input_shape=options.parse_shape(text("input-shape")),
        classes=options.parse_class_names(text("classes")),
        normalization=normalization,
        task="classification" if task is None else _one_of(Task)("task", task),
        data=data,
        data_root=None if root is None else place("data-root", root).absolute(),
        class_map=tuple(sorted(class_map.items())) if isinstance(class_map, Mapping) else class_map,
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
