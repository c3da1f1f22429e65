"""`loihi-convert models`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, say_json, say_tables
from loihi_convert.errors import InputError
from loihi_convert.ground.ready_made import REPOSITORY_FOLDER, NamedModel, named_models

if TYPE_CHECKING:
    from loihi_convert.report.table import Table


def models(as_json: options.AsJson = False, details: bool = False) -> None:
    """List the networks that run by name, as in `run mnist-T4`, with their accuracy on all test images.

    Parameters
    ----------
    details
        Also print layers of each CNN, and size and place of each file.
    """
    known = named_models()
    if as_json:
        say_json({"models": [_json(model) for model in known]})
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


def _json(model: NamedModel) -> dict[str, object]:
    return {**model._asdict(), "path": None if model.path is None else str(model.path)}
