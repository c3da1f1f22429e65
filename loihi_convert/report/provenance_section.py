"""The section on the provenance of each run and its files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from loihi_convert.report.page import Code, Details, Facts, PageBlock
from loihi_convert.report.table import Table
from loihi_convert.runs.stored_run import StoredRun


def blocks(runs: Sequence[StoredRun]) -> Iterator[PageBlock]:
    """Yield the contents of the manifests; if there are several runs, each is collapsed."""
    if len(runs) == 1:
        yield from _how_it_was_made(runs[0])
    else:
        for run in runs:
            yield Details(run.name, tuple(_how_it_was_made(run)))


def _how_it_was_made(run: StoredRun) -> Iterator[PageBlock]:
    manifest = run.manifest
    versions = {**manifest.packages, **manifest.backend_versions}
    facts = (
        ("run folder", run.name),
        ("command", shlex.join(manifest.command_line)),
        ("finished", manifest.utc_time),
        ("backend", manifest.backend + (f", layout {manifest.lava_layout}" if manifest.lava_layout else "")),
        ("data", manifest.data),
        ("Python", manifest.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("platform", manifest.platform),
    )
    yield Facts(facts)
    columns = {
        "balanced by": ("balance", "method"),
        "initial\npotential": ("balance", "initial_potential"),
        "reset": ("balance", "reset"),
        "thresholds": ("quantize", "thresholds"),
        "weight\nbits": ("quantize", "weight_bits"),
        "pixel\nbits": ("quantize", "pixel_bits"),
        "CNN": ("model", "architecture"),
        "made from": ("model", "file"),
    }
    rows = tuple(
        (file.name, *(_recorded(run, Path(file.name).stem, *keys) for keys in columns.values()), file.sha256)
        for file in manifest.files
    )
    yield Table("Files of this run", ("file", *columns, "SHA-256"), rows, len(columns) + 2)
    whole = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    yield Details("The whole manifest, with the records of each file", (Code(whole),))


def _recorded(run: StoredRun, file: str, stage: str, key: str) -> str:
    """Return an entry of a file's provenance as text, or ""; versions differ in the entries they record."""
    found = run.manifest.provenance.get(file, {}).get(stage)
    value = found.get(key) if isinstance(found, dict) else None
    return "" if value is None else str(value)
