"""Write docs/results/stock-lava-dl.csv, the files of netx_models/ as unmodified lava-dl runs them.

    python tools/stock_results.py [FILE.net ...] [--images N]

Each file classifies the first test images (10,000 of MNIST, 1,000 of other sets) by `ref` and as unmodified lava-dl
does (`checks.lava_dl`), at the T that it is balanced for. Files with the same SHA-256 and number of images as in the
table are not measured again, rows of files that are gone are dropped, and an interrupted run continues where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from stored_results import RESULTS, read_rows

from loihi_convert import netx
from loihi_convert.checks.lava_dl import lava_dl
from loihi_convert.data import load_data
from loihi_convert.errors import InputError
from loihi_convert.ground.files import write_atomically
from loihi_convert.runs.columns import as_csv

MODELS: Final = Path(__file__).parents[1] / "netx_models"
OUTPUT: Final = RESULTS / "stock-lava-dl.csv"
IMAGES: Final = {"mnist": 10_000}
OTHERS: Final = 1_000


def measured(files: Sequence[Path], images: int | None) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows, in the order of their files, after each of ``files``."""
    stored = read_rows(OUTPUT) if OUTPUT.exists() else []
    rows: dict[str, dict[str, Any]] = {row["file"]: dict(row) for row in stored if (MODELS / row["file"]).exists()}
    for path in files:
        file, (network, sha256) = str(path.relative_to(MODELS)), netx.read_with_digest(path)
        data = network.provenance.model.data
        if data is None:
            raise InputError("does not record its data set", where=path, hint="Export it again.")
        count, known = images or IMAGES.get(data, OTHERS), rows.get(file, {})
        if (known.get("sha256"), known.get("images")) == (sha256, str(count)):
            continue
        test = load_data(data).test[:count]
        found = lava_dl(network, test.images, network.timesteps, labels=test.labels)
        if found is None or found.accuracy is None or found.ref_accuracy is None:
            raise InputError("lava-dl changes its weights or fails", where=path, hint="`check` has the reason.")
        rows[file] = {
            "file": file,
            "timesteps": network.timesteps,
            "images": found.image_count,
            "lava_dl_accuracy": f"{100 * found.accuracy:.2f}",
            "ref_accuracy": f"{100 * found.ref_accuracy:.2f}",
            "agreement": f"{100 * found.agreement:.2f}",
            "sha256": sha256,
        }
        print(*rows[file].values(), flush=True)
        yield [rows[name] for name in sorted(rows)]


def main() -> None:
    """Measure the files; write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="files of netx_models/; default: all")
    parser.add_argument("--images", type=int)
    arguments = parser.parse_args()
    files = [file.resolve() for file in arguments.files] or sorted(MODELS.glob("*/*.net"))
    for rows in measured(files, arguments.images):
        write_atomically(OUTPUT, as_csv(rows))


if __name__ == "__main__":
    main()
