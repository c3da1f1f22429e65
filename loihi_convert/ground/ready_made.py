"""The ready-made models of this repository: exported networks by name, and the CNNs that they are made from.

A wheel contains those of MNIST for T = 1, 4 and 64 with their CNNs (0.8 MB); a clone contains most of them.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from loihi_convert.errors import InputError, did_you_mean
from loihi_convert.ground.files import asked

REPOSITORY_FOLDER: Final = "netx_models"
"""Where the files are in the repository, in folders whose names begin the models' names."""

_PACKAGED: Final = "models"
# A name such as `mnist-T4`; anything else is a path.
_NAME: Final = re.compile(r"[A-Za-z][\w-]*\Z")


class NamedModel(NamedTuple):
    """One exported network.

    Attributes
    ----------
    name
        A name such as mnist-T4, or mnist-T4-converted for the file of that kind if another one is mnist-T4.
    data, layers
        Its data set, and its CNN's layers in the notation 28x28-12c5-2ap-10o.
    timesteps
        The T its thresholds are balanced for.
    kind
        ``converted`` from the CNN as it is, or from a checkpoint ``fine-tuned`` for few steps. If there are both, the
        better one on validation images has the shorter name.
    accuracy, cnn_accuracy
        Accuracy of the file at this T, and of the CNN without few-step training, on all test images; 0..1.
    byte_count
        Size of the file.
    place
        Path of the file in the repository.
    is_in_repository
        Whether a clone contains it; if not, ``commands`` produce it.
    has_checkpoint
        Whether a clone contains the checkpoint that it was exported from.
    commands
        The commands that produced it.
    path
        Path of the file in this installation; None if it is not included.
    """

    name: str
    data: str
    layers: str
    timesteps: int
    kind: str
    accuracy: float
    cnn_accuracy: float
    byte_count: int
    place: str
    is_in_repository: bool
    has_checkpoint: bool
    commands: tuple[str, ...]
    path: Path | None

    @property
    def is_best(self) -> bool:
        """Whether it is the better of both kinds on validation images, or the only one."""
        return Path(self.place).name.startswith("model-")

    @property
    def folder(self) -> str:
        """Its folder, with which its name begins."""
        return Path(self.place).parent.name


def _folder() -> Path | None:
    """Return the folder that contains the data sets' folders, in a clone or in the package."""
    package = Path(__file__).parents[1]
    places = (package.parent / REPOSITORY_FOLDER, package / _PACKAGED)
    return next((place for place in places if any(place.glob("*/card.json"))), None)


@cache
def named_models() -> tuple[NamedModel, ...]:
    """Return all named networks by folder and T; empty if this installation does not include a list."""
    folder = _folder()
    if folder is None:
        return ()
    found = []
    for path in sorted(folder.glob("*/card.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        checkpoints = {item["file"]: item["in_repository"] for item in card["checkpoints"]}
        for network in card["networks"]:
            timesteps, kind, file = network["timesteps"], network["kind"], path.parent / network["file"]
            suffix = "" if network["file"].startswith("model-") else f"-{kind}"
            (own,) = (point for point in network["test"] if point["timesteps"] == timesteps)
            found.append(
                NamedModel(
                    name=f"{path.parent.name}-T{timesteps}{suffix}",
                    data=card["data"],
                    layers=card["layers"],
                    timesteps=timesteps,
                    kind=kind,
                    accuracy=own["accuracy"],
                    cnn_accuracy=card["cnn_test_accuracy"],
                    byte_count=network["bytes"],
                    place=f"{REPOSITORY_FOLDER}/{path.parent.name}/{network['file']}",
                    is_in_repository=network["in_repository"],
                    has_checkpoint=checkpoints[network["checkpoint"]],
                    commands=tuple(network["commands"]),
                    path=file if file.is_file() else None,
                )
            )
    order = {"mnist": 0, "fashion-mnist": 1, "cifar10": 2}
    # The sort is stable: files of the same T keep the order of the card.
    found.sort(
        key=lambda model: (order.get(model.data, len(order)), model.folder.count("-"), model.layers, model.timesteps)
    )
    return tuple(found)


def cnns_of(name: str) -> tuple[Path, ...]:
    """Return the checkpoints of the folder ``name``, such as ``"mnist"``.

    The first is the CNN without quantized activations; the others were fine-tuned from it for few steps.

    Raises
    ------
    InputError
        If the folder, or its CNN, is not part of this installation.
    """
    models = _folder()
    folder = None if models is None else models / name
    if folder is None or not all((folder / needed).is_file() for needed in ("card.json", "cnn.safetensors")):
        found, hint = "this model's CNN is not part of this installation", "Install from a clone of the repository."
        raise InputError(found, where=name, hint=hint)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    listed = [item for item in card["checkpoints"] if item["in_repository"]]
    # The sort is stable: each group keeps the order of the card.
    listed.sort(key=lambda item: item["qcfs_levels"] is not None)
    return tuple(path for item in listed if (path := folder / item["file"]).is_file())


def file_of(path: Path) -> Path:
    """Return ``path`` unchanged, or the file of the model with that name.

    An existing file or folder with this name takes precedence over a model.

    Raises
    ------
    InputError
        If the model is not included in this installation, or the name is similar to that of a model.
    """
    text = str(path)
    if not _NAME.match(text) or asked(path, Path.exists):
        return path
    models = {model.name.lower(): model for model in named_models()}
    model = models.get(text.lower())
    if model is not None and model.path is not None:
        return model.path
    if model is not None:
        hint = f"In a clone of the repository it is {model.place}: name that path."
        if not model.is_in_repository:
            made = f"{Path(model.place).parent}/README.md"
            hint = f"The repository does not include it; {made} has the commands that made it."
        raise InputError("is not part of this installation", where=text, hint=hint)
    if meant := did_you_mean(text, (model.name for model in named_models())):
        raise InputError("neither a file nor a model of this name", where=text, hint=meant)
    return path
