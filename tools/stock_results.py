"""Write docs/results/stock.csv, the files of netx_models/ as unmodified lava-dl runs them: python tools/stock_results.py

Each file classifies the first test images (``IMAGES``, or --images) twice, by `ref` and with the neurons of unmodified
lava-dl (`NeuronModel.STOCK_LIF`), at the T that it is balanced for. Files as arguments: only these; other rows stay,
unless their file is gone. The table is written after each file.
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
from loihi_convert.errors import UsageError
from loihi_convert.files import write_atomically
from loihi_convert.runs.csv_files import as_csv

MODELS: Final = Path(__file__).parents[1] / "netx_models"
OUTPUT: Final = RESULTS / "stock.csv"
IMAGES: Final = {"mnist": 10_000}
OTHERS: Final = 1_000


def stock_row(file: Path, images: int | None) -> dict[str, Any]:
    """Return the accuracies of one file."""
    network = netx.read(file)
    data = network.provenance.model.data
    if data is None:
        raise UsageError("does not record its data set", where=file, hint="Export it again.")
    test = load_data(data).test[: images or IMAGES.get(data, OTHERS)]
    found = lava_dl(network, test.images, network.timesteps, labels=test.labels)
    if found is None or found.accuracy is None or found.ref_accuracy is None:
        raise UsageError("lava-dl changes its weights, or fails", where=file, hint="`check` has the reason.")
    percent = (f"{100 * share:.2f}" for share in (found.accuracy, found.ref_accuracy, found.agreement))
    accuracy, ref_accuracy, agreement = percent
    return {
        "network": file.parent.name,
        "file": file.name,
        "timesteps": network.timesteps,
        "images": found.image_count,
        "lava_dl_accuracy": accuracy,
        "ref_accuracy": ref_accuracy,
        "agreement": agreement,
    }


def measured(files: Sequence[Path], images: int | None) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows after each file, in the order of networks, kinds and T."""
    rows: dict[Path, dict[str, Any]] = {}
    for row in read_rows(OUTPUT) if OUTPUT.exists() else ():
        if (file := MODELS / row["network"] / row["file"]).exists():
            rows[file] = row
    for file in files:
        rows[file] = stock_row(file, images)
        print(*rows[file].values(), flush=True)
        yield sorted(rows.values(), key=lambda row: (row["network"], kind_of(row["file"]), int(row["timesteps"])))


def kind_of(file: str) -> str:
    """Return the name of a file without its T: ``model``, or the kind of the less accurate file for that T."""
    return file.partition("-T")[0]


def main() -> None:
    """Measure the files and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="files of netx_models/; default: all")
    parser.add_argument("--images", type=int, help="test images; default: 10,000 of MNIST, 1,000 of the others")
    arguments = parser.parse_args()
    files = [file.resolve() for file in arguments.files] or sorted(MODELS.glob("*/*.net"))
    for rows in measured(files, arguments.images):
        write_atomically(OUTPUT, as_csv(rows))


if __name__ == "__main__":
    main()
