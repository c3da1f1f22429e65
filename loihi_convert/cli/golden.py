"""`loihi-convert golden`: compare a backend with a golden folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.choices import BackendName, Generation, Layout, Neuron
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say_json
from loihi_convert.errors import VerificationError

_FOLDER = typer.Argument(
    help="Golden folder; default: the one in this package.", metavar="[FOLDER]", show_default=False
)
_BACKEND = "What is compared: ref (exact integers), sim (Lava's CPU simulator), or loihi2 (a board)."


def golden(
    folder: Annotated[Path | None, _FOLDER] = None,
    backend: Annotated[BackendName, options.choice(BackendName, "--backend", options.BASICS, _BACKEND)] = "ref",
    as_json: Annotated[bool, options.as_json()] = False,
    lava_python: Annotated[str | None, options.lava_python()] = None,
    lava_layout: Annotated[Layout | None, options.lava_layout()] = None,
    neuron: Annotated[Neuron | None, options.neuron()] = None,
    leak: Annotated[bool, options.leak()] = False,
    partition: Annotated[str | None, options.partition()] = None,
    board: Annotated[str | None, options.board()] = None,
    loihi_gen: Annotated[Generation | None, options.loihi_gen()] = None,
) -> None:
    """Compare every spike and potential of a tiny network with a golden folder; exit code 5 if any differs."""
    from loihi_convert.backends import BackendOptions, open_backend
    from loihi_convert.pipeline import golden_check

    on_board = options.board_of(backend, partition, board, loihi_gen)
    given = BackendOptions(lava_python=lava_python, lava_layout=lava_layout, neuron=neuron, leak=leak, board=on_board)
    runner = open_backend(backend, given)
    path = golden_check.folder() if folder is None else folder
    known = golden_check.read_golden(path)
    with runner:
        found = golden_check.check_golden(known, runner)
    if as_json:
        say_json(
            {
                "folder": str(path),
                "backend": backend,
                "images": len(known.images),
                "timesteps": known.timesteps,
                "layers": [vars(layer) for layer in found.layers],
                "passed": found.passed,
            }
        )
    else:
        words = {True: "pass", False: "FAIL", None: "no neurons"}
        for layer in found.layers:
            echo(f"{layer.name}: spikes {words[layer.spikes]}, potentials {words[layer.potentials]}")
    if not found.passed:
        difference = found.difference or "no difference, so ref differs from the folder, too"
        raise VerificationError(f"{backend} differs from the folder; compared with ref: {difference}", where=path)
    where = f"{len(known.images)} images, T = {known.timesteps}, {backend}"
    log(f"golden: every spike and potential of {len(found.layers)} layers is equal ({where})")
