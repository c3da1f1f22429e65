"""Verbs that show what there is: models, data sets, packages, the contents of a file, and the page about runs."""

from __future__ import annotations

import shlex
import webbrowser
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loihi_convert.backends.backend import BackendOptions
from loihi_convert.cli import options
from loihi_convert.cli.console import Fact, aligned, echo, log, say, say_answer, say_json, say_tables
from loihi_convert.cli.options import require_netx
from loihi_convert.errors import InputError, PlatformError, UsageError, VerificationError, rendered
from loihi_convert.ground.choices import Width
from loihi_convert.ground.dependencies import MODULES, OPTIONAL
from loihi_convert.ground.files import asked
from loihi_convert.ground.options import BASICS, Flag
from loihi_convert.ground.ready_made import REPOSITORY_FOLDER, NamedModel, file_of, named_models
from loihi_convert.pipeline.options import DataRequest

if TYPE_CHECKING:
    from loihi_convert.checks.environment import Check
    from loihi_convert.data.benchmarks import DataState
    from loihi_convert.report.table import Table


def inspect(
    file: Annotated[Path, Flag("FILE", is_argument=True)],
    other: Annotated[Path | None, Flag("OTHER", is_argument=True)] = None,
    details: bool = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what is in a .net file of any tool, or how two files differ (exit code 5 if they do).

    Parameters
    ----------
    file
        A .net file of any tool, or a name of `loihi-convert models`.
    other
        A second file: show what differs.
    details
        Also print histograms of weights and thresholds; with two files, every dataset that differs.
    """
    file, other = file_of(file), None if other is None else file_of(other)
    for path in (file, other):
        if path is not None:
            require_netx(path)
    if other is not None:
        _compare(file, other, as_json=as_json, details=details)
        return
    from loihi_convert.report.contents import describe, summary, tables

    contents = describe(file)
    if as_json:
        counts = {"neuron_count": contents.neuron_count, "synapse_count": contents.synapse_count}
        say_json(contents.model_dump(mode="json") | counts)
        return
    say(summary(contents))
    say_tables(tables(contents, details=details))
    if not details:
        echo("--details: histograms of weights and thresholds")


def _compare(file: Path, other: Path, *, as_json: bool, details: bool) -> None:
    from loihi_convert.report.differences import difference_table, differences, kinds_table

    found = differences(file, other)
    names = (file.name, other.name) if file.name != other.name else (str(file), str(other))
    said = " and ".join(names) + (
        f" differ in {len(found)} datasets" if found else ": the same network, number by number"
    )
    (log if as_json else say)(said)
    if as_json:
        say_json({"equal": not found, "differences": [difference.model_dump(mode="json") for difference in found]})
    if not found:
        return
    if not as_json:
        say_tables([difference_table(found, (file.name, other.name)) if details else kinds_table(found, names)])
        if not details:
            echo("--details: every dataset")
    # `cmp` would return 1, which is reserved for bugs here.
    raise typer.Exit(VerificationError.exit_code)


def models(as_json: options.AsJson = False, details: bool = False) -> None:
    """List the networks that run by name, as in `run mnist-T4`, with their accuracy on all test images.

    Parameters
    ----------
    details
        Also print layers of each CNN, and size and place of each file.
    """
    known = named_models()
    if as_json:
        say_json({"models": [model._asdict() | {"path": model.path and str(model.path)} for model in known]})
        return
    if not known:
        raise InputError("no models are installed", hint=f"They are in {REPOSITORY_FOLDER}/ of the repository.")
    here = [model for model in known if model.path is not None]
    say_tables([_accuracies(known, is_whole=len(here) == len(known))])
    if here:
        example = next((model for model in here if model.timesteps == 4 and model.is_best), here[0])
        echo(f"run one: loihi-convert run {example.name}" + ("" if details else "; --details: layers and files"))
    if details:
        _say_details(known)


def _accuracies(known: Sequence[NamedModel], *, is_whole: bool) -> Table:
    """A row for each folder and kind, a column for each T."""
    from loihi_convert.report.table import table_of

    rows = []
    for folder, group in groupby(known, key=lambda model: model.folder):
        models = list(group)
        for kind in sorted({model.kind for model in models}):
            at = {model.timesteps: model for model in models if model.kind == kind}
            rows.append(
                {
                    "network": folder,
                    "kind": kind,
                    "CNN": f"{100 * models[0].cnn_accuracy:.2f}",
                    **{
                        f"T = {steps}": _accuracy(at[steps]) if steps in at else None
                        for steps in sorted({model.timesteps for model in known})
                    },
                }
            )
    caption = "" if is_whole else "(in brackets: not installed; `run` with such a name says how to get the file)"
    return table_of(
        rows,
        words=("network", "kind"),
        title="test accuracy, %; * by the short name, such as mnist-T4, others by mnist-T4-converted",
        caption=caption,
    )


def _accuracy(model: NamedModel) -> str:
    text = f"{100 * model.accuracy:.2f}{'*' if model.is_best else ' '}"
    return f"({text})" if model.path is None else text


def _say_details(known: Sequence[NamedModel]) -> None:
    for folder, group in groupby(known, key=lambda model: model.folder):
        rows = list(group)
        echo(f"{folder}: {rows[0].layers}")
        for model in rows:
            echo(f"  {model.name:{max(len(row.name) for row in rows)}}  {model.byte_count / 1e6:.2f} MB  {model.place}")


def data(
    names: Annotated[list[str] | None, Flag("NAME", is_argument=True)] = None,
    *,
    images: Annotated[DataRequest, Flag(panel=BASICS, only=("data_root",))],
    given: Annotated[Path | None, Flag(name="--from", panel=BASICS)] = None,
    as_json: options.AsJson = False,
) -> None:
    """Download benchmark data sets, or list them; every file is checked by its SHA-256.

    Parameters
    ----------
    names
        Data sets to download: mnist, fashion-mnist, cifar10; mlperf-tiny is all sets of MLPerf Tiny. Default: list all
        data sets.
    given
        For sets of MLPerf Tiny: a clone of EEMBC's repository energyrunner, or a folder with the same inputs, to take
        them from.
    """
    from loihi_convert.data import DATASETS, default_root
    from loihi_convert.data.benchmarks import TINY, fetch, require_dataset, state

    root = images.data_root or default_root()
    names = [each for name in names or () for each in (TINY if name == "mlperf-tiny" else [name])]
    for name in names:
        require_dataset(name)
        if given is not None and name not in TINY:
            raise UsageError(f"given for {name}", where="given", expected="is for sets of MLPerf Tiny")
    downloaded = [name for name in dict.fromkeys(names) if fetch(name, root, given=given)]
    states = {name: state(name, root) for name in names or DATASETS}
    if as_json:
        there = {name: found.is_there for name, found in states.items()}
        say_json({"data_root": str(root), "there": there, "downloaded": downloaded, "data_sets": _described(states)})
        return
    count = f"{sum(found.is_there for found in states.values())} of {len(states)} data sets are here"
    verdict = _downloaded(states, downloaded) if names else count
    problems = [Fact("damaged", rendered(found.problem, {})) for found in states.values() if found.problem]
    say_answer(verdict, (f"folder: {root}",), _table(states), [*problems, *_next(states, images.data_root)])


def _downloaded(states: Collection[str], downloaded: Collection[str]) -> str:
    """Return the answer to ``data NAME``, in which every data set is there."""
    if not downloaded:
        return f"{' and '.join(states)}: already here; nothing was downloaded"
    others = [name for name in states if name not in downloaded]
    return f"downloaded {' and '.join(downloaded)}" + (f"; {' and '.join(others)}: already here" if others else "")


def _table(states: Mapping[str, DataState]) -> list[str]:
    """Return a line for each data set."""
    from loihi_convert.data.benchmarks import DESCRIPTIONS

    rows = [("data set", "", "size", "training", "test", "pixels")]
    for name, found in states.items():
        shape, training, test, size = DESCRIPTIONS[name]
        mark = "here" if found.is_there else "damaged" if found.problem else "missing"
        pixels = " x ".join(map(str, shape[1:])) + (f" x {shape[0]}" if shape[0] > 1 else "")
        weight = f"{size / 1e6:.0f} MB" if size else "embedded"
        rows.append((name, mark, weight, f"{training:,}", f"{test:,}", pixels))
    return aligned(rows, (0, 1))


def _next(states: Mapping[str, DataState], data_root: Path | None) -> list[Fact]:
    """Return what to type next: the download of missing data sets, or commands that use one that is here."""
    root = "" if data_root is None else f" --data-root {shlex.quote(str(data_root))}"
    missing = [name for name, found in states.items() if not (found.is_there or found.problem or "tiny" in name)]
    if missing:
        return [Fact("next", f"loihi-convert data {' '.join(missing)}{root}")]
    here = [name for name, found in states.items() if found.is_there]
    name = "mnist" if "mnist" in here else here[-1]
    is_tiny = name.startswith("mlperf-tiny")
    verb = f"export netx_models/{name}/cnn.onnx" if is_tiny else "train"
    used = [Fact("next", f"loihi-convert {verb} --data {name}{root}")]
    return used if is_tiny or name == "digits" else [*used, Fact("", f"loihi-convert run {name}-T4{root}")]


def _described(states: Mapping[str, DataState]) -> list[dict[str, object]]:
    from loihi_convert.data.benchmarks import DESCRIPTIONS

    return [
        {
            "name": name,
            "is_there": found.is_there,
            "problem": found.problem and rendered(found.problem, {}),
            **DESCRIPTIONS[name]._asdict(),
        }
        for name, found in states.items()
    ]


_INDENT = "\n        "


def doctor(
    run_lava: Annotated[bool, Flag(name="--lava")] = False,
    *,
    lava: Annotated[BackendOptions, Flag(only=("lava_python",))],
    as_json: options.AsJson = False,
) -> None:
    """Show what is installed, what is missing, and how to install it (packages, Lava, Loihi).

    Parameters
    ----------
    run_lava
        Also run a small network on Lava and compare it with ref; takes some seconds.
    """
    from loihi_convert.checks.environment import examine

    checks = examine(lava.lava_python, run_lava=run_lava)
    if as_json:
        say_json({"checks": [asdict(check) for check in checks]})
    else:
        _say(checks)
    if broken := [check.name for check in checks if check.state == "broken"]:
        raise PlatformError("does not work; see above for what to do", where=", ".join(broken))


def _say(checks: Sequence[Check]) -> None:
    """Print one line per check; installed packages share a line."""
    packages = [f"{check.name} {check.found}" for check in checks if _is_package(check)]
    for check in checks:
        if packages and check.name in MODULES:
            echo(f"ok      Packages: {', '.join(packages)}")
            packages = []
        if _is_package(check):
            continue
        mark = {"ok": "ok     ", "absent": "absent ", "broken": "BROKEN "}[check.state]
        advice = f"{_INDENT}{check.advice.replace(chr(10), _INDENT)}" if check.advice else ""
        echo(f"{mark} {check.name}: {check.found}{advice}")


def _is_package(check: Check) -> bool:
    return check.name in (*MODULES, *OPTIONAL) and check.state == "ok"


def report(
    ctx: typer.Context,
    runs: Annotated[list[Path] | None, Flag("RUN", is_argument=True)] = None,
    output: Annotated[Path | None, Flag(name="-o,--output")] = None,
    opens: Annotated[bool, Flag(name="--open")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    figure: Annotated[Path | None, Flag(panel=options.OUTPUT)] = None,
    width: Annotated[Width | None, Flag(panel=options.OUTPUT)] = None,
) -> None:
    """Write one page about one or more runs: accuracy and latency, layers, confusion matrix, how it was made.

    Parameters
    ----------
    runs
        Run folders, or a folder that holds run folders. Default: the newest in runs/.
    output
        HTML file to write; Markdown of the same name is written beside it. Default: report.html in the run folder,
        where it replaces an earlier report; of several runs, in the current folder.
    opens
        Open the page in your browser.
    figure
        Write one figure instead of a page: accuracy, or error, against T, as .pdf, .svg or .png.
    width
        Width of the figure: a column (85 mm) or a page (178 mm) of a paper, or a screen.
    """
    if width is not None and figure is None:
        raise UsageError("given", where="width", expected="needs `figure`")
    for name in ("output", "opens"):
        if figure is not None and options.is_given(ctx, name):
            raise UsageError("given with `figure`", where=name, expected="needs a page")
    folders = _run_folders(runs or ())
    if figure is not None:
        from loihi_convert.report.figure import write_figure

        path = write_figure(folders, figure, width=width or "screen", overwrite=overwrite)
        if as_json:
            say_json({"figure": str(path)})
        else:
            echo(f"wrote {path}")
        return
    from loihi_convert.report.build import is_report, write_report

    if output is None:
        is_alone = len(folders) == 1
        output = (folders[0] if is_alone else Path()) / "report.html"
        overwrite = overwrite or (is_alone and is_report(output))
    written = write_report(folders, output, overwrite=overwrite)
    if as_json:
        say_json({"html": str(written.html), "markdown": str(written.markdown)})
    else:
        echo(f"wrote {written.html} and {written.markdown}")
    if opens and not webbrowser.open(written.html.resolve().as_uri()):
        log(f"no browser was found; open {written.html} yourself")


def _run_folders(given: Sequence[Path]) -> list[Path]:
    """Return the run folders among ``given`` and inside them, or the newest run in the current folder."""
    from loihi_convert.runs.run_folder import MANIFEST, RUNS

    if not given:
        complete = sorted(RUNS.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
        if not complete:
            raise InputError("does not hold a complete run", where=RUNS, hint="Write one: `loihi-convert run FILE`.")
        return [complete[-1].parent]
    folders: list[Path] = []
    for path in given:
        is_run = asked(path / MANIFEST, Path.exists)
        inner = [] if is_run else sorted(found.parent for found in path.glob(f"*/{MANIFEST}"))
        incomplete = [one.name for one in sorted(path.iterdir()) if one.is_dir() and one not in inner] if inner else []
        if incomplete:
            log(f"left out, not complete run folders: {', '.join(incomplete)}")
        folders += inner or [path]
    return folders
