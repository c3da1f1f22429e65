"""`loihi-convert models`."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, say_json
from loihi_convert.cli.named_models import REPOSITORY_FOLDER, NamedModel, named_models
from loihi_convert.errors import InputError


def models(as_json: Annotated[bool, options.as_json()] = False) -> None:
    """List the networks that run by name, as in `run mnist-T4`, with their accuracy on all test images."""
    known = named_models()
    if as_json:
        say_json({"models": [_json(model) for model in known]})
        return
    if not known:
        raise InputError(
            "this installation holds no models", hint=f"They are in {REPOSITORY_FOLDER}/ of the repository."
        )
    for folder, group in groupby(known, key=lambda model: model.folder):
        rows = list(group)
        echo(f"{folder}: {rows[0].layers}, CNN {100 * rows[0].cnn_accuracy:.2f} %")
        for model in rows:
            place = "here" if model.path is not None else model.place
            size = f"{model.byte_count / 1e6:.2f} MB"
            echo(f"  {model.name:17}  T {model.timesteps:2}  {100 * model.accuracy:.2f} %  {size:>7}  {place}")
    here = [model for model in known if model.path is not None]
    if here:
        example = next((model for model in here if model.timesteps == 4), here[0])
        echo(f"run one of those that are here: loihi-convert run {example.name}")
    if len(here) < len(known):
        echo(f"the others are files of the repository, in {REPOSITORY_FOLDER}/")


def _json(model: NamedModel) -> dict[str, object]:
    return {**model._asdict(), "path": None if model.path is None else str(model.path)}
