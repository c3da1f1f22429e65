"""Run folders of runs with known results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from loihi_convert.ground.files import sha256
from loihi_convert.runs import run_folder
from loihi_convert.runs.columns import FileResults, ImageFacts
from loihi_convert.runs.run_folder import ReadFile, new_manifest
from support.evaluations import LABELS

CLASSES = ("zero", "one", "two")


def write_runs(root: Path, *runs: FileResults, data: str = "mnist", **changes: Any) -> Path:
    """Write a run folder below ``root``, named after its first file, with a manifest as from `run_into_folder`."""
    folder = root / f"{re.sub(r'[^a-zA-Z0-9-]', '_', runs[0].name)}-ref-1"
    file = root / "some.net"
    file.write_bytes(b"content")
    made = new_manifest(
        network=runs[0].name,
        data=data,
        data_fingerprint="c0ffee",
        backend="ref",
        files=[ReadFile(name=file.name, sha256=sha256(file))],
        command_line=["loihi-convert", "run"],
        seed=None,
    )
    manifest = {
        **made,
        "classes": changes.get("classes", CLASSES),
        "lava_layout": None,
        "backend_versions": {},
        "provenance": {"some": {"balance": {"method": "x"}}},
    }
    manifest = changes.pop("manifest", manifest)
    run_folder.write_run(folder, runs, ImageFacts(**{"labels": LABELS, "classes": CLASSES, **changes}), manifest)
    return folder
