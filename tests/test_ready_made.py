"""Models by name: the list, the file of each name, and the message if a model is not installed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loihi_convert import cli
from loihi_convert.errors import InputError
from loihi_convert.ground import ready_made as module
from loihi_convert.ground.files import sha256
from loihi_convert.ground.ready_made import cnns_of, file_of, named_models

ROOT = Path(__file__).parents[1]


def test_every_file_of_the_cards_has_a_name() -> None:
    models = named_models()
    assert len({model.name for model in models}) == len(models) > 10
    for model in models:
        assert model.name == f"{model.folder}-T{model.timesteps}" + ("" if model.is_best else f"-{model.kind}")
        assert model.folder.startswith(model.data)
        if model.is_in_repository:
            assert model.path == ROOT / model.place
            assert model.path.stat().st_size == model.byte_count


def test_cards_are_read_as_utf_8_in_every_locale() -> None:
    program = (
        "import warnings\n"
        "from loihi_convert.ground.ready_made import cnns_of, named_models\n"
        "warnings.simplefilter('error', EncodingWarning)\n"
        "assert named_models() and cnns_of('mnist')"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_cnns_of_a_model_are_its_own_and_what_was_fine_tuned_from_it() -> None:
    names = {name: [path.name for path in cnns_of(name)] for name in ("mnist", "cifar10")}
    assert names["mnist"][0] == "cnn.safetensors"
    assert "cnn-paper-recipe.safetensors" not in names["mnist"]
    assert all((ROOT / "netx_models" / name / file).is_file() for name, files in names.items() for file in files)
    fine_tuned = [f"cnn-{how}.safetensors" for how in ("spiking-T4", "spiking-T2", "spiking-T1", "spiking-T8")]
    assert names["cifar10"] == ["cnn.safetensors", *fine_tuned]


@pytest.mark.parametrize("files", [(), ("card.json",), ("cnn.safetensors",)])
def test_a_cnn_that_is_not_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...]
) -> None:
    (tmp_path / "mnist").mkdir()
    for name in files:
        (tmp_path / "mnist" / name).touch()
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    with pytest.raises(InputError) as raised:
        cnns_of("mnist")
    assert raised.value.where == "mnist"


def test_a_folder_of_the_same_name_elsewhere_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "netx_models" / "mnist").mkdir(parents=True)
    (tmp_path / "netx_models" / "mnist" / "card.json").touch()
    (tmp_path / "netx_models" / "mnist" / "cnn.safetensors").touch()
    assert cnns_of("mnist")[0] == ROOT / "netx_models" / "mnist" / "cnn.safetensors"


def test_a_name_is_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = ROOT / "netx_models" / "mnist" / "model-T4.net"
    assert file_of(Path("mnist-T4")) == path
    assert file_of(Path("MNIST-t4")) == path
    assert file_of(Path("cifar10-T4-converted")) == ROOT / "netx_models/cifar10/converted-T4.net"
    # Paths, and words that are not similar to a name, are passed on unchanged.
    for other in ("absent.net", "model", "a/mnist-T4"):
        assert file_of(Path(other)) == Path(other)
    Path("mnist-T4").write_text("a file of the user's own")
    assert file_of(Path("mnist-T4")) == Path("mnist-T4")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("minst-T4", "mnist-T4"), ("cifar10-T4-convert", "cifar10-T4-converted")],
)
def test_a_name_that_is_almost_right(word: str, meant: str) -> None:
    with pytest.raises(InputError) as refused:
        file_of(Path(word))
    assert f"Did you mean {meant}" in refused.value.hint
    assert refused.value.where == word


def test_a_model_that_is_not_here_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    known = named_models()
    monkeypatch.setattr(module, "named_models", lambda: tuple(model._replace(path=None) for model in known))
    with pytest.raises(InputError) as refused:
        file_of(Path("cifar10-T8"))
    assert "netx_models/cifar10/model-T8.net" in refused.value.hint


def test_the_verb_lists_them() -> None:
    out = CliRunner().invoke(cli.app, ["models"]).stdout
    cells = {tuple(words[:2]): words[2:] for line in out.splitlines() if len(words := line.split()) > 2}
    for kind in ("converted", "fine-tuned"):
        mnist = [model for model in named_models() if (model.folder, model.kind) == ("mnist", kind)]
        accuracies = [f"{100 * model.accuracy:.2f}{'*' * model.is_best}" for model in mnist]
        assert cells["mnist", kind] == [f"{100 * mnist[0].cnn_accuracy:.2f}", *accuracies]
    assert "loihi-convert run mnist-T4" in out
    assert len(out.splitlines()) < 24
    shown = CliRunner().invoke(cli.app, ["models", "--details"]).stdout
    assert "mnist: 28x28-12c5-2ap-64c5-2ap-10o\n" in shown
    assert all(model.place in shown for model in named_models())
    listed = json.loads(CliRunner().invoke(cli.app, ["models", "--json"]).stdout)["models"]
    assert [model["name"] for model in listed] == [model.name for model in named_models()]
    assert set(listed[0]) >= {"name", "data", "layers", "timesteps", "accuracy", "byte_count", "place", "path"}


def test_a_model_that_is_not_here_is_listed_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tuple(model._replace(path=None) if model.folder != "mnist" else model for model in named_models())
    monkeypatch.setattr(importlib.import_module("loihi_convert.cli.listings"), "named_models", lambda: known)
    out = CliRunner().invoke(cli.app, ["models"]).stdout
    absent = next(model for model in known if model.path is None)
    assert f"({100 * absent.accuracy:.2f}{'*' if absent.is_best else ' '})" in out
    assert "not installed" in out


def test_verbs_take_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    described = CliRunner().invoke(cli.app, ["inspect", "mnist-T4", "--json"])
    assert json.loads(described.stdout)["sha256"] == sha256(ROOT / "netx_models/mnist/model-T4.net")
    assert CliRunner().invoke(cli.app, ["inspect", "mnist-T4", "mnist-T4"]).exit_code == 0
    checked = CliRunner().invoke(cli.app, ["check", "mnist-T4", "--images", "0"])
    assert checked.stdout.startswith("model-T4.net: can be used on Lava")
