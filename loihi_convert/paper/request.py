"""A request to reproduce tables and figures: its networks, images and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loihi_convert import ready_made
from loihi_convert.cnn import checkpoint
from loihi_convert.data import DATASETS
from loihi_convert.errors import CheckpointError, UsageError
from loihi_convert.paper.exhibits import Exhibit
from loihi_convert.paper.images import Counts, PaperImages
from loihi_convert.paper.networks import Network
from loihi_convert.paper.variants import Variant
from loihi_convert.report.figure_style import Width


@dataclass(frozen=True)
class Request:
    """Tables and figures of the paper.

    Parameters
    ----------
    exhibits
        The tables and figures. Of several, those without a network, a method or a T are left out.
    models
        Names of ready-made models, or checkpoints; one per data set.
    tuned
        Fine-tuned checkpoints, candidates for the best result at each T. Those of a ready-made model are added.
    output
        Folder for the pages, pictures and CSV files.
    cache
        Folder of the results of cells; None: ``output``.
    variants
        The variants; None: `variants.DEFAULT_VARIANTS`.
    methods, timesteps
        Restrict the measurement to these; None: all of the paper's.
    counts
        The number of images for each purpose.
    weight_bits, poisson_seed
        See `variants.PaperSetting`.
    with_best
        Also measure the best of our methods, for tables and figures that compare methods.
    computed_only
        Show stored results without computing anything.
    device
        ``"cpu"``, or another torch device.
    data_root
        Folder of the data sets; None: the default.
    width
        Width of a figure.
    """

    exhibits: tuple[Exhibit, ...]
    models: tuple[str, ...]
    tuned: tuple[Path, ...] = ()
    output: Path = Path("reproduced")
    cache: Path | None = None
    variants: tuple[Variant, ...] | None = None
    methods: tuple[str, ...] | None = None
    timesteps: tuple[int, ...] | None = None
    counts: Counts = field(default_factory=Counts)
    weight_bits: int = 8
    poisson_seed: int = 0
    with_best: bool = True
    computed_only: bool = False
    device: str = "cpu"
    data_root: Path | None = None
    width: Width = "screen"


def opened_networks(request: Request) -> dict[str, Network]:
    """Return the networks by the name of their training data.

    Raises
    ------
    UsageError
        If two networks were trained on the same data.
    InputError
        If a network cannot be used.
    """
    found: dict[str, Network] = {}
    for model in request.models:
        path, *_ = _checkpoints(model)
        data = _trained_on(path)
        if data in found:
            raise UsageError(
                f"{found[data].name} is also trained on {data}",
                where=path,
                expected="pass one `models` for each data set",
                hint="Pass fine-tuned networks by `tuned`.",
            )
        found[data] = Network(path, PaperImages(data, request.data_root, request.counts), request.device)
    return found


def tuned_networks(request: Request, networks: Mapping[str, Network]) -> dict[str, list[Network]]:
    """Return the fine-tuned versions of each of ``networks``, candidates for the best at each T."""
    found: dict[str, list[Network]] = {data: [] for data in networks}
    named = [path for model in request.models for path in _checkpoints(model)[1:]]
    for path in (*request.tuned, *named):
        data = _trained_on(path)
        if data not in found:
            raise UsageError(
                f"is trained on {data}, and no `models` is",
                where=path,
                hint="Pass the network it was fine-tuned from.",
            )
        found[data].append(Network(path, networks[data].images, request.device))
    return found


def _checkpoints(model: str) -> tuple[Path, ...]:
    """Return the path ``model``, or the checkpoints of the ready-made model of that name, the CNN first."""
    return ready_made.cnns_of(model) if model in DATASETS and model != "digits" else (Path(model),)


def _trained_on(path: Path) -> str:
    """The name of the data set on which `train` trained the built-in CNN in ``path``."""
    found = checkpoint.load_if_ours(path)
    if found is None or found.is_own:
        raise CheckpointError(
            "was not written by `loihi-convert train`" if found is None else "holds your own CNN",
            where=path,
            expected="must be a built-in CNN that `loihi-convert train` wrote",
            hint="Train one, such as `loihi-convert train --data mnist`, or name a ready-made model: mnist.",
        )
    return found.data
