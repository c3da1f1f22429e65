"""A file is written completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support.refusals import refusal

from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.ground.files import (
    asked,
    refuse_to_overwrite,
    refuse_to_replace,
    require_fits,
    require_writable,
    sha256,
    write_atomically,
)


def test_content_digest_and_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_for_all_threads(_: int) -> int:
        raise AssertionError("the umask belongs to all threads")

    monkeypatch.setattr(os, "umask", set_for_all_threads)
    path = tmp_path / "a file.net"
    write_atomically(path, b"abc")
    assert path.read_bytes() == b"abc"
    assert (
        sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2, appendix B.1
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(OSError(errno.ENOSPC, "No space left on device"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_any_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, expected: type[BaseException]
) -> None:
    path = tmp_path / "model.net"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected) as caught:
        write_atomically(path, b"new")
    if isinstance(caught.value, InputError):
        assert (caught.value.where, "No space left on device" in caught.value.found) == (str(path), True)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.net"]


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.net").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        write_atomically(tmp_path / "model.net", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.net"]


def test_a_symbolic_link_stays_and_its_target_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "private.net", tmp_path / "link.net"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    require_writable(link)
    write_atomically(link, b"new")
    assert (link.is_symlink(), target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (True, b"new", 0o640)
    target.unlink()
    write_atomically(link, b"again")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"again")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link.net", "private.net"]


def test_what_is_not_a_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for check in (require_writable, lambda path: write_atomically(path, b"abc")):
        for path, found in (
            (pipe, "is not a file; nothing was changed"),
            (loop, "cannot be written (Too many levels of symbolic links); nothing was changed"),
            (Path(), "cannot be written (Is a directory); nothing was changed"),
        ):
            assert refusal(InputError, check, path) == (str(path), found)
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loop", "pipe"]


@pytest.mark.parametrize("letter", ["a", "\u00e4"])
def test_the_longest_name_that_a_file_may_have(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * (251 // len(os.fsencode(letter))) + ".net")
    write_atomically(path, b"abc")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("absent/a.net", "No such file or directory"),
        ("file/a.net", "Not a directory"),
        ("folder", "Is a directory"),
        (f"{'a' * 252}.net", "File name too long"),
    ],
)
def test_what_cannot_be_written_is_known_before(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for check in (require_writable, lambda path: write_atomically(path, b"abc")):
        with pytest.raises(InputError) as caught:
            check(tmp_path / place)
        assert caught.value.where == str(tmp_path / place)
        assert caught.value.found == f"cannot be written ({reason}); nothing was changed"
    require_writable(tmp_path / "file")
    require_writable(tmp_path / "folder" / "new")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "folder"]


def test_refuse_to_replace(tmp_path: Path) -> None:
    source = tmp_path / "model.pt"
    refuse_to_replace(source, source)
    source.touch()
    (tmp_path / "linked.pt").symlink_to(source)
    (tmp_path / "other.pt").touch()
    for path in (source, tmp_path / ".." / tmp_path.name / "model.pt", tmp_path / "linked.pt"):
        with pytest.raises(UsageError, match="is the input file") as caught:
            refuse_to_replace(source, path)
        assert caught.value.where == str(path)
    for name in ("other.pt", "new.pt"):
        refuse_to_replace(source, tmp_path / name)


def test_a_path_of_which_nothing_can_be_known(tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 300}.net"
    for check in (
        lambda: refuse_to_overwrite(path, overwrite=False),
        lambda: refuse_to_replace(tmp_path, path),
        lambda: refuse_to_replace(path, tmp_path),
        lambda: asked(path, Path.exists, DataError),
    ):
        with pytest.raises(InputError) as caught:
            check()
        assert (caught.value.where, caught.value.found) == (str(path), "cannot be read (File name too long)")
    assert isinstance(caught.value, DataError)
    assert not asked(tmp_path / "absent", Path.exists)


def test_refuse_to_overwrite(tmp_path: Path) -> None:
    refuse_to_overwrite(tmp_path / "absent", overwrite=False)
    refuse_to_overwrite(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="exists already") as caught:
        refuse_to_overwrite(tmp_path, overwrite=False)
    assert caught.value.where == str(tmp_path)
    assert "`overwrite=True`" in caught.value.hint


def test_of_two_writers_without_overwrite_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    write_atomically(path, b"first", overwrite=False)
    with pytest.raises(InputError, match=r"model\.net: exists already; nothing was changed"):
        write_atomically(path, b"second", overwrite=False)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("model.net", b"first")]


def test_an_input_may_take_2_gib_or_32_times_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    require_fits(2 * gib, 1, tmp_path)
    require_fits(4 * gib, gib // 8, tmp_path)
    for size, stored, limit in ((3 * gib, 1, "2.0 GiB"), (5 * gib, gib // 8, "4.0 GiB")):
        with pytest.raises(InputError, match=f"takes {size / gib} GiB; must take at most {limit}.* to {size // gib}"):
            require_fits(size, stored, tmp_path)
    monkeypatch.setenv("LOIHI_CONVERT_GIB", "0.5")
    with pytest.raises(InputError, match=r"at most 0\.5 GiB"):
        require_fits(gib, gib, tmp_path)
