"""Computations, the folder of their outcomes, and the flow that computes what is missing in it."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from support.dask_functions import Number, Numbered
from support.refusals import refusal

from loihi_convert.batch import computation
from loihi_convert.batch.computation import (
    Computation,
    Known,
    Outcome,
    Store,
    compute_missing,
    missing,
    opened_before,
    outcome_of,
    recomputed,
)
from loihi_convert.errors import InputError, RangeError, UnsupportedModelError
from loihi_convert.ground.devices import torch_threads
from loihi_convert.ground.options import Record
from loihi_convert.ground.progress import progress_to

CELL = Numbered(0, package="1.0")
RESULT = Number(value=1)


def numbered(count: int) -> list[Numbered]:
    """Different cells."""
    return [Numbered(number) for number in range(count)]


def test_a_network_that_the_command_has_opened_is_not_refused_for_ever() -> None:
    """Where it cannot be opened later, as without memory, the machine is the reason."""
    with pytest.raises(InputError) as raised, opened_before():
        raise UnsupportedModelError("cannot be traced", where="Net", expected="must fit", hint="Wait.")
    assert (raised.value.found, raised.value.where) == ("cannot be traced", "Net")
    assert (raised.value.expected, raised.value.hint) == ("must fit", "Wait.")


def test_what_an_earlier_format_computed_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Numbered(0, package="1.0").name
    monkeypatch.setattr(Numbered, "format", Numbered.format + 1)
    assert Numbered(0, package="1.0").name != before


@dataclass(frozen=True)
class One(Computation[Number]):
    """A cell whose key is its fields."""

    result_type: ClassVar[type[Record]] = Number

    number: int

    def compute(self, needed: Sequence[Number]) -> Number:
        return Number(value=torch.get_num_threads())


class Other(One):
    """Another kind."""


class Exact(One):
    """One that is the same on any number of threads."""

    is_exact: ClassVar[bool] = True


def test_cells_of_different_kinds_have_different_names() -> None:
    assert One(1).key == {"kind": "One", "number": 1}
    assert len({cell(number).name for cell in (One, Other) for number in (1, 2)}) == 4


@pytest.mark.parametrize(("cell", "is_alone", "threads"), [(One, True, 1), (Exact, False, 1), (Exact, True, 2)])
def test_only_exact_cells_take_all_threads_and_only_alone(cell: type[One], is_alone: bool, threads: int) -> None:
    with torch_threads(2):
        assert outcome_of(cell(1), is_alone=is_alone).result == Number(value=threads)


class TestStore:
    def test_outcomes_are_kept(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "a" / "b")
        store.create()
        store.put(CELL, Outcome(RESULT, duration=1.5))
        other = replace(CELL, package="2")
        store.put(other, Outcome(error="does not fit"))
        assert (store.get(CELL), store.get(other)) == (Outcome(RESULT), Outcome(error="does not fit"))
        assert store.get(replace(CELL, package="3")) is None
        assert (store.duration(CELL), store.duration(replace(CELL, package="3"))) == (1.5, None)

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": 1, "result": {}}', "half a fi"])
    def test_a_damaged_file_is_named(self, tmp_path: Path, content: str) -> None:
        store = Store(tmp_path)
        store.create()
        path = tmp_path / "cells" / f"{CELL.name}.json"
        path.write_text(content)
        with pytest.raises(InputError) as caught:
            store.get(CELL)
        assert (caught.value.where, caught.value.hint) == (str(path), "Delete it to compute it again.")

    def test_a_file_under_the_name_of_another_cell_is_refused(self, tmp_path: Path) -> None:
        store, other = Store(tmp_path), replace(CELL, package="2")
        store.create()
        store.put(CELL, Outcome(RESULT))
        path = tmp_path / "cells" / f"{other.name}.json"
        (tmp_path / "cells" / f"{CELL.name}.json").rename(path)
        assert refusal(InputError, store.get, other) == (str(path), "its contents do not match its name")

    def test_a_changed_number_is_noticed_and_a_result_without_digest_is_computed_again(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.create()
        store.put(CELL, Outcome(RESULT))
        path, content = store.path(CELL), json.loads(store.path(CELL).read_text())
        path.write_text(json.dumps({**content, "result": {"value": 2}}))
        assert refusal(InputError, store.get, CELL) == (str(path), "changed since it was computed: its SHA-256 differs")
        del content["sha256"]
        path.write_text(json.dumps(content))
        assert store.get(CELL) is None

    def test_some_results_are_computed_again(self, tmp_path: Path) -> None:
        cells, store = numbered(7), Store(tmp_path)
        compute_missing(cells, store)
        equal = "3 of 7 cells computed again: equal; the SHA-256 of every cell matches"
        assert recomputed([*cells, *numbered(9)], store) == equal
        store.put(cells[3], Outcome(RESULT))
        found = (str(store.path(cells[3])), "computed again: another result")
        assert refusal(InputError, recomputed, cells, store) == found
        assert recomputed([], store).startswith("0 of 0 cells")

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be created"):
            Store(tmp_path / "file").create()


class Scripted:
    """Workers with given outcomes."""

    def __init__(self, outcome: Callable[[Numbered], Outcome]) -> None:
        self.computed, self._outcome = list[Numbered](), outcome

    def outcomes(self, waiting: Sequence[Numbered], known: Known) -> Iterator[tuple[Numbered, Outcome]]:
        for one in waiting:
            self.computed.append(one)
            failed = [need for need in map(known, one.needs) if need.result is None]
            yield one, failed[0] if failed else self._outcome(one)


class TestFlow:
    def test_what_is_there_is_not_computed_again(self, tmp_path: Path) -> None:
        cells, store = numbered(7), Store(tmp_path)
        first = Scripted(lambda cell: Outcome(RESULT))
        assert compute_missing(cells[:4], store, first) == {}
        second = Scripted(lambda cell: Outcome(RESULT))
        shown: list[tuple[int, int]] = []
        with progress_to(lambda done, total: shown.append((done, total))):
            compute_missing(cells, store, second)
        assert Counter(cell.name for cell in (*first.computed, *second.computed)) == Counter(one.name for one in cells)
        assert shown == [(4, 7), (5, 7), (6, 7), (7, 7)]

    def test_a_cell_that_fails_is_kept_with_its_error_and_one_whose_machine_fails_is_not(self, tmp_path: Path) -> None:
        cells, store = numbered(3), Store(tmp_path)
        of = {
            cells[0].name: Outcome(error="too wide"),
            cells[1].name: Outcome(error="no memory", is_final=False),
            cells[2].name: Outcome(RESULT),
        }
        failed = compute_missing(cells, store, Scripted(lambda cell: of[cell.name]))
        assert failed == {cells[1].name: Outcome(error="no memory", is_final=False)}
        assert [store.get(one) for one in cells] == [Outcome(error="too wide"), None, Outcome(RESULT)]
        again = Scripted(lambda cell: Outcome(RESULT))
        compute_missing(cells, store, again)
        assert again.computed == [cells[1]]

    def test_an_interruption_keeps_what_is_done(self, tmp_path: Path) -> None:
        cells, store, left = numbered(5), Store(tmp_path), iter(range(2))

        def outcome(cell: Numbered) -> Outcome:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return Outcome(RESULT)

        with pytest.raises(KeyboardInterrupt):
            compute_missing(cells, store, Scripted(outcome))
        assert sum(store.get(one) is not None for one in cells) == 2

    def test_a_full_disk_ends_the_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is finished is kept."""
        cells, store, sync = numbered(4), Store(tmp_path), os.fsync
        executor = Scripted(lambda cell: Outcome(RESULT))

        def full(descriptor: int) -> None:
            if len(executor.computed) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError) as caught:
            compute_missing(cells, store, executor)
        assert "No space left on device" in caught.value.found
        assert executor.computed == list(cells[:2])
        assert [store.get(cell) is not None for cell in cells] == [True, False, False, False]

    def test_time_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cells of work 1, 2, 3, ... 8 take 20 s per work, one after the other, and the last a minute of another kind.

        After 1 + 2 + 3 = 6 of 36: 30 x 20 s and, as nothing is known of the other kind, 5 x 20 s are left: 12 min.
        """

        class Other(Numbered):
            pass

        now, told = [0.0], list[str]()
        monkeypatch.setattr(computation.time, "monotonic", lambda: now[0])
        cells = [*(Numbered(number, work=number) for number in range(1, 9)), Other(9, work=5)]

        def outcome(cell: Numbered) -> Outcome:
            seconds = 60.0 if isinstance(cell, Other) else 20 * cell.work
            now[0] += seconds
            return Outcome(RESULT, duration=seconds)

        compute_missing(cells, Store(tmp_path), Scripted(outcome), told=lambda cell, outcome, left: told.append(left))
        assert told[:4] == ["1 of 9", "2 of 9", "3 of 9, about 12 min left", "4 of 9, about 10 min left"]
        assert told[-2:] == ["8 of 9, about 2 min left", ""]


class TestNeeds:
    """Cells whose results others take; sums of numbers."""

    FIRST, SECOND = Numbered(1), Numbered(10)
    BOTH = Numbered(100, (FIRST, SECOND))
    LAST = Numbered(1000, (BOTH, FIRST))

    def test_each_comes_after_what_it_needs(self, tmp_path: Path) -> None:
        store, done = Store(tmp_path), list[Computation]()
        assert compute_missing([self.LAST], store, told=lambda cell, outcome, left: done.append(cell)) == {}
        # 1000 + (100 + 1 + 10) + 1.
        assert store.get(self.LAST) == Outcome(Number(value=1112))
        assert Counter(done) == Counter([self.FIRST, self.SECOND, self.BOTH, self.LAST])
        assert all(done.index(need) < done.index(cell) for cell in done for need in cell.needs)

    def test_what_only_computed_cells_need_is_not_computed(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        assert missing([self.LAST], store) == (self.FIRST, self.SECOND, self.BOTH, self.LAST)
        store.create()
        store.put(self.BOTH, Outcome(Number(value=111)))
        assert missing([self.LAST], store) == (self.FIRST, self.LAST)
        shown: list[tuple[int, int]] = []
        with progress_to(lambda *counts: shown.append(counts)):
            compute_missing([self.LAST, self.BOTH], store)
        assert shown == [(1, 3), (2, 3), (3, 3)]
        assert store.get(self.LAST) == Outcome(Number(value=1112))
        assert store.get(self.SECOND) is None

    @pytest.mark.parametrize("error", [RangeError("no"), ValueError("no")])
    def test_an_error_is_that_of_all_that_need_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        store, compute, computed = Store(tmp_path), Numbered.compute, list[Computation]()

        def failing(cell: Numbered, needed: Sequence[Number]) -> Number:
            computed.append(cell)
            if cell == self.FIRST:
                raise error
            return compute(cell, needed)

        monkeypatch.setattr(Numbered, "compute", failing)
        unfinished = compute_missing([self.LAST], store)
        assert Counter(computed) == Counter([self.FIRST, self.SECOND])
        lost = [self.FIRST, self.BOTH, self.LAST]
        if isinstance(error, RangeError):
            assert {store.get(cell) for cell in lost} == {Outcome(error="no")}
            assert unfinished == {}
        else:
            assert {store.get(cell) for cell in lost} == {None}
            assert {name: one.error for name, one in unfinished.items()} == {
                cell.name: "ValueError: no" for cell in lost
            }


class TestCompute:
    def test_errors_of_the_network_are_final_and_others_are_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def raising(error: Exception) -> Outcome:
            monkeypatch.setattr(Numbered, "compute", lambda self, needed: (_ for _ in ()).throw(error))
            return outcome_of(Numbered(1))

        final, machine, bug = map(raising, (RangeError("too large", where="fc"), InputError("gone"), ValueError("?")))
        assert (final.error, final.is_final) == ("fc: too large.", True)
        assert (machine.error, machine.is_final) == ("gone", False)
        assert (bug.error, bug.is_final) == ("ValueError: ?", False)
