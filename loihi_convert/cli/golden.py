"""`loihi-convert run --golden`: compare a backend with a golden folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert.cli.console import echo, log, say_json
from loihi_convert.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from loihi_convert.backends import Backend


def check_golden(folders: list[Path] | None, backend: Backend, *, as_json: bool) -> None:
    """Say of every layer whether it passed.

    Raises
    ------
    VerificationError
        If one did not.
    """
    from loihi_convert.pipeline import golden_check

    if folders is not None and len(folders) > 1:
        raise UsageError(f"--golden: {len(folders)} folders; allowed is one, or none for the one in this package.")
    path = folders[0] if folders else golden_check.folder()
    known = golden_check.read_golden(path)
    with backend:
        found = golden_check.check_golden(known, backend)
    if as_json:
        say_json(
            {
                "folder": str(path),
                "backend": backend.name,
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
    where = f"{len(known.images)} images, T = {known.timesteps}, {backend.name}"
    if not found.passed:
        raise VerificationError(
            f"{path}: {backend.name} does not do what the folder says; against ref: "
            f"{found.difference or 'no difference, so ref does not either'}."
        )
    log(f"golden: every spike and potential of {len(found.layers)} layers is as it must be ({where})")
