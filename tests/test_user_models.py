"""Six CNNs written like users' code, loaded with --arch and run on `ref`, two of them also on Lava."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from support import SUPPORT

from loihi_convert import netx
from loihi_convert.__main__ import main
from loihi_convert.backends.backend import open_backend
from loihi_convert.data import load_data
from loihi_convert.pipeline import exporting, running
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.reading.source import open_source

NAMES = ("Sequential", "Tutorial", "Separable", "Shapes", "Normalizing", "PreNorm")
pytestmark = pytest.mark.slow

ON_LAVA = ("Separable", "PreNorm")


@pytest.fixture(scope="module")
def users() -> ModuleType:
    sys.path.insert(0, str(SUPPORT))
    try:
        return importlib.import_module("user_models")
    finally:
        sys.path.remove(str(SUPPORT))


def call(*words: object) -> int:
    sys.argv = ["loihi-convert", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def in_support(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder in which ``import user_models`` works."""
    monkeypatch.chdir(SUPPORT)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.lava] * (n in ON_LAVA)) for n in NAMES])
def test_a_users_cnn_keeps_its_classes(users: ModuleType, name: str, tmp_path: Path) -> None:
    kind, digits = getattr(users, name), load_data("digits")
    assert tuple(cnn.__name__ for cnn in users.NORMALIZATIONS) == NAMES
    model = users.trained(kind, digits.train[:600], epochs=12)
    torch.save(model.state_dict(), tmp_path / "user.pt")
    arch, normalization = f"user_models:{name}", users.NORMALIZATIONS[kind]
    source = open_source(
        tmp_path / "user.pt", arch=arch, input_shape=(1, 8, 8), data="digits", normalization=normalization
    )
    exporting.export(source, None, (64,), digits.calibration_images()[:200])
    test = digits.test[:50]
    with torch.no_grad():
        scores = model(users.prepared(kind, test))
    with open_backend("ref") as ref:
        ran = running.run(open_file(tmp_path / "user.net", arch=arch), test, ref)
    classes = scores.argmax(1).numpy()
    # A briefly trained CNN has near ties; after 15 epochs on all images, 390 to 400 of 400 classes are equal.
    assert np.mean(classes == test.labels) > 0.7
    assert np.mean(ran.result.potentials[:, -1].argmax(1) == classes) >= 0.9
    assert ran.evaluation.cnn_accuracy == pytest.approx(float(np.mean(classes == test.labels)))
    if name in ON_LAVA:
        with open_backend("sim") as sim:
            assert running.run(tmp_path / "user.net", test[:3], sim, RunOptions(trace=True)).equal_to_reference == 3


def test_a_file_does_not_name_the_code_that_runs(
    users: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(users.Shapes().state_dict(), tmp_path / "user.pt")
    user = ["export", tmp_path / "user.pt", "--arch", "user_models:Shapes"]
    assert call(*user) == 2
    assert "--data: not given" in capsys.readouterr().err
    for wrong, message in (
        (["--mean", "a"], "--mean: found 'a'; must be numbers, one per channel"),
        (["--input-shape", "8"], "--input-shape: found '8'; must be whole numbers >= 1: C,H,W of an image"),
        (["--classes", "cat,,dog"], "--classes: found 'cat,,dog'; must be their number, at least 2, or their names"),
        (["--classes", "12"], "found 12 names for 10 outputs of the CNN"),
    ):
        assert call(*user, "--data", "digits", *wrong) == 2
        assert message in capsys.readouterr().err
    assert call(*user, "--data", "digits", "--input-shape", "3,8,8") == 3
    assert "--data: found digits, images of (1, 8, 8); must be images of (3, 8, 8)" in capsys.readouterr().err
    assert call(*user, "--data", "digits", "-T", "2", "--classes", "a,b,c,d,e,f,g,h,i,j", "--no-verify") == 0
    assert netx.read(tmp_path / "user.net").provenance["model"]["classes"] == list("abcdefghij")
    capsys.readouterr()
    run = ["run", tmp_path / "user.net", "--images", 10, "--json"]
    assert call(*run, "-o", tmp_path / "without") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["user"]["cnn_accuracy"] is None
    assert (
        "user.net: no CNN: pass --arch user_models:Shapes to import and run that code and compare with the CNN" in err
    )
    assert call(*run, "-o", tmp_path / "with", "--arch", "user_models:Shapes") == 0
    assert json.loads(capsys.readouterr().out)["user"]["cnn_accuracy"] is not None
