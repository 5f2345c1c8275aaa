"""What every journal promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudml.adapters.log.journal import FileJournal
from fraudml.decisions.journal import Journal
from fraudml.decisions.record import Action, Decision, Degradation, Timings, Trial
from fraudml.events.transaction import Transaction
from tests.support.scoring import decision, transaction

Open = Callable[[], Journal]
ADAPTERS: dict[str, Callable[[Path], Journal]] = {"file": lambda folder: FileJournal(folder / "new" / "a.journal")}

texts = st.text(max_size=20).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
integers = st.integers(-(2**63), 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
decisions = st.builds(
    Decision,
    transaction=st.builds(
        Transaction,
        texts,
        integers,
        st.lists(st.none() | texts, max_size=3).map(tuple),
        st.none() | integers,
        st.lists(st.none() | texts | numbers | integers, max_size=4).map(tuple),
    ),
    vector=st.binary(max_size=64),
    score=st.none() | st.floats(0, 1),
    action=st.sampled_from(Action),
    model_version=texts,
    fingerprint=texts,
    arrival=integers,
    decided_at_us=integers,
    timings=st.builds(Timings, integers, integers, integers),
    arm=texts,
    late=st.booleans(),
    degraded=st.lists(st.sampled_from(Degradation), max_size=3).map(tuple),
    trial=st.none() | st.builds(Trial, integers, numbers, st.none() | numbers, st.booleans()),
)


@pytest.fixture(params=sorted(ADAPTERS))
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same journal again, as after a restart."""
    opened: list[Journal] = []

    def open_journal() -> Journal:
        for journal in opened:
            journal.close()
        opened.append(ADAPTERS[request.param](tmp_path))
        return opened[-1]

    yield open_journal
    for journal in opened:
        journal.close()


def made(*numbers: int) -> list[Decision]:
    return [decision(transaction(number), number) for number in numbers]


def test_a_new_journal_is_empty(reopen: Open) -> None:
    journal = reopen()
    assert len(journal) == 0
    assert list(journal.read()) == []
    journal.clear()
    journal.append([])
    assert len(reopen()) == 0


def test_decisions_come_back_in_order_also_after_a_restart(reopen: Open) -> None:
    journal = reopen()
    journal.append(made(3, 1))
    journal.append(made(2))
    for held in (journal, reopen()):
        assert len(held) == 3
        assert list(held.read()) == made(3, 1, 2)
    again = reopen()
    again.append(made(5))
    assert list(reopen().read()) == made(3, 1, 2, 5)


@given(batches=st.lists(st.lists(decisions, max_size=4), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_any_decision_comes_back_as_it_was(reopen: Open, batches: list[list[Decision]]) -> None:
    journal = reopen()
    journal.clear()
    for batch in batches:
        journal.append(batch)
    wanted = [item for batch in batches for item in batch]
    for held in (journal, reopen()):
        assert len(held) == len(wanted)
        # also the types: 1 and 1.0 are equal
        assert list(map(repr, held.read())) == list(map(repr, wanted))


def test_what_is_cleared_is_gone_for_good(reopen: Open) -> None:
    journal = reopen()
    journal.append(made(1, 2))
    journal.clear()
    assert len(journal) == 0
    assert list(journal.read()) == []
    journal.append(made(3))
    assert list(journal.read()) == made(3)
    assert list(reopen().read()) == made(3)
    reopen().clear()
    assert len(reopen()) == 0


def test_reading_gives_what_was_held_when_it_began(reopen: Open) -> None:
    journal = reopen()
    journal.append(made(1))
    reading = journal.read()
    assert next(reading) == made(1)[0]
    journal.append(made(2))
    assert list(reading) == []
    assert list(journal.read()) == made(1, 2)


def test_several_threads_may_append(reopen: Open) -> None:
    journal = reopen()

    def append(first: int) -> None:
        for number in range(first, first + 20):
            journal.append(made(number, number + 1_000))

    threads = [threading.Thread(target=append, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [item.arrival for item in reopen().read()]
    assert len(numbers) == 120
    assert numbers[1::2] == [number + 1_000 for number in numbers[::2]]  # a call's decisions stay together
    for first in (0, 100, 200):
        assert [n for n in numbers if first <= n < first + 100] == list(range(first, first + 20))
