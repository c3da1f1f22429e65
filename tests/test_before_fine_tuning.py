"""A spiking network of a fine-tuned CNN is compared with the CNN before fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import JsonValue

from loihi_convert.batch.conversion import ConversionCell, open_network
from loihi_convert.batch.setting import ConversionSetting, ImageChoice
from loihi_convert.cnn.checkpoint import Checkpoint, save
from loihi_convert.cnn.design import record_of
from loihi_convert.cnn.models import build_model
from loihi_convert.data import load_data
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import NetworkFile
from loihi_convert.reading.source import before_fine_tuning, open_source
from loihi_convert.simulation.relu import cnn_scores

NETX_MODELS = Path(__file__).parents[1] / "netx_models"
CNN, QCFS, SPIKING = "cnn.safetensors", "cnn-qcfs-L4.pt", "cnn-spiking-T4.safetensors"


def trained(seed: int, start: Checkpoint | None = None, qcfs_levels: int | None = None) -> Checkpoint:
    """A checkpoint with random weights, and the record that a training from ``start`` leaves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_model("digits-cnn", (1, 8, 8), 10, qcfs_levels=qcfs_levels).state_dict()
    classes = tuple(map(str, range(10)))
    recipe: dict[str, JsonValue] = {} if start is None else {"start": record_of(start)}
    return Checkpoint("digits-cnn", state, "digits", (1, 8, 8), classes, seed, 0.5, 0.5, recipe, qcfs_levels)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A folder with a CNN, the one fine-tuned from it, and the one fine-tuned from that."""
    cnn = trained(0)
    qcfs = trained(1, cnn, 4)
    for name, one in ((CNN, cnn), (QCFS, qcfs), (SPIKING, trained(2, qcfs, 4))):
        save(one, tmp_path / name)
    return tmp_path


def test_the_way_back_leads_to_the_cnn(chain: Path) -> None:
    # Files that cannot be it are passed over.
    save(trained(3), chain / "another.safetensors")
    (chain / "damaged.safetensors").write_bytes((chain / CNN).read_bytes()[:-4] + b"abcd")
    (chain / "text.pt").write_text("x" * (chain / CNN).stat().st_size)
    (chain / "folder.pt").mkdir()
    assert before_fine_tuning(chain / SPIKING) == chain / CNN
    assert before_fine_tuning(chain / QCFS) == chain / CNN
    assert before_fine_tuning(chain / CNN) is None
    cnn, tuned = open_source(chain / CNN), open_source(chain / SPIKING)
    assert cnn.compared is cnn.network
    assert tuned.compared is not tuned.network
    images = load_data("digits").test.images[:8]
    np.testing.assert_array_equal(cnn_scores(tuned.compared, images), cnn_scores(cnn.network, images))
    assert tuned.notes_on_compared == ()


def test_a_folder_that_cannot_be_listed_is_not_searched(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert before_fine_tuning(chain / SPIKING) is None


def test_a_missing_file_in_between_does_not_break_the_way(chain: Path) -> None:
    (chain / QCFS).unlink()
    assert before_fine_tuning(chain / SPIKING) == chain / CNN
    # Earlier versions recorded only the last training, so that the way is lost.
    qcfs = trained(1, trained(0), 4)
    save(trained(2, replace(qcfs, recipe={}), 4), chain / SPIKING)
    assert before_fine_tuning(chain / SPIKING) is None
    save(qcfs, chain / QCFS)
    assert before_fine_tuning(chain / SPIKING) == chain / CNN


def test_a_changed_cnn_is_not_the_one(chain: Path) -> None:
    save(trained(3), chain / CNN)
    assert before_fine_tuning(chain / SPIKING) is None
    tuned = open_source(chain / SPIKING)
    assert tuned.compared is tuned.network
    (note,) = tuned.notes_on_compared
    assert SPIKING in note


def test_the_cnn_is_the_last_one_with_relus(chain: Path) -> None:
    # It was itself trained further, from `CNN`.
    further = trained(4, trained(0))
    qcfs = trained(5, further, 4)
    save(qcfs, chain / QCFS)
    assert before_fine_tuning(chain / QCFS) is None
    save(further, chain / "further.pt")
    assert before_fine_tuning(chain / QCFS) == chain / "further.pt"


def test_a_sweep_compares_with_it_and_its_cells_depend_on_it(chain: Path) -> None:
    choice = ImageChoice(image_count=50, calibration=10)
    cnn, tuned = (open_network(NetworkFile(chain / name), choice) for name in (CNN, SPIKING))
    np.testing.assert_array_equal(tuned.cnn_outputs, cnn.cnn_outputs)
    (chain / CNN).unlink()
    alone = open_network(NetworkFile(chain / SPIKING), choice)
    assert (alone.cnn_outputs != cnn.cnn_outputs).any()
    setting = ConversionSetting(timesteps=4)
    cells = [ConversionCell(NetworkFile(chain / SPIKING), choice, one.digests, setting) for one in (tuned, alone)]
    assert cells[0].key != cells[1].key


def test_levels_from_random_weights_are_no_fine_tuning(tmp_path: Path) -> None:
    save(trained(0, qcfs_levels=4), tmp_path / QCFS)
    source = open_source(tmp_path / QCFS)
    assert (source.compared, source.notes_on_compared) == (source.network, ())


@pytest.mark.parametrize(
    ("folder", "net"), [("mnist", "model-T4.net"), ("cifar10", "model-T8.net"), ("cifar10", "model-T1.net")]
)
def test_a_file_of_the_zoo_is_compared_with_its_cnn(folder: str, net: str) -> None:
    # cnn-qcfs-L2, from which cifar10/model-T1.net was trained over two steps, is not in the folder.
    opened = open_file(NETX_MODELS / folder / net)
    cnn = open_source(NETX_MODELS / folder / "cnn.safetensors").network
    assert opened.notes == ()
    assert opened.cnn is not None
    shown = np.random.default_rng(0).integers(0, 256, (4, *cnn.input_shape), np.uint8)
    np.testing.assert_array_equal(cnn_scores(opened.cnn, shown), cnn_scores(cnn, shown))
