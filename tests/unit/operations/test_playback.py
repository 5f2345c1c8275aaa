"""History played back: in which order, when, and what is known of it afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.errors import StreamError
from fraudml.events.label import Label
from fraudml.events.receiver import Item, Told
from fraudml.events.source import arrow_schema
from fraudml.operations.playback.pace import BURST_S, Pace
from fraudml.operations.playback.player import Played, Player
from fraudml.operations.playback.timeline import Event, Extent, ItemWriter, Stretch, extent, timeline
from tests.support.scoring import SCHEMA, SECOND, T0

MINUTE = 60 * SECOND
History = Sequence[tuple[int, int | None]]  # seconds of each transaction, and of its label


def batches(history: History, size: int = 3) -> list[pa.RecordBatch]:
    """Transactions t0, t1 ... in order of time, as an offline store gives them."""
    rows = [
        {
            "transaction_id": f"t{number}",
            "event_time_us": T0 + at * SECOND,
            "customer": f"c{number % 3}",
            "terminal": None,
            "amount_minor": number,
            "country": "DE",
            "distance": None,
            "items": 1,
            "is_fraud": None if known is None else number % 2 == 0,
            "known_at_us": None if known is None else T0 + known * SECOND,
        }
        for number, (at, known) in enumerate(history)
    ]
    return [
        pa.RecordBatch.from_pylist(rows[first : first + size], arrow_schema(SCHEMA))
        for first in range(0, len(rows), size)
    ]


def name(event: Event) -> str:
    return ("label of " if isinstance(event, Label) else "") + event.transaction_id


def names(history: History, **options: object) -> list[str]:
    wanted = options.pop("labels", True)
    stretch = Stretch(**{key: T0 + value * SECOND if key != "limit" else value for key, value in options.items()})  # type: ignore[arg-type,operator]
    until_us = stretch.until_us or 2**62
    whole = [batch.filter(pc.less(batch["event_time_us"], until_us)) for batch in batches(history)]
    return [name(event) for event in timeline(whole, SCHEMA, stretch, labels=bool(wanted))]


def test_labels_come_when_they_became_known() -> None:
    history = [(0, 20), (10, 10), (20, 25), (30, None)]
    assert names(history) == ["t0", "t1", "label of t1", "t2", "label of t0", "label of t2", "t3"]
    assert names(history, labels=False) == ["t0", "t1", "t2", "t3"]
    assert names(history, limit=2) == ["t0", "t1"]


def test_a_stretch_has_the_labels_that_become_known_in_it() -> None:
    history = [(0, 20), (10, 10), (20, 25), (30, 90)]
    assert names(history, since_us=20) == ["t2", "label of t0", "label of t2", "t3", "label of t3"]
    assert names(history, until_us=25) == ["t0", "t1", "label of t1", "t2", "label of t0"]
    assert names(history, since_us=10, until_us=20, limit=5) == ["t1", "label of t1"]


histories = st.lists(st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(0, 40))), max_size=25).map(
    lambda rows: [(at, None if delay is None else at + delay) for at, delay in sorted(rows, key=lambda row: row[0])]
)


@given(histories, st.integers(0, 100))
def test_a_replay_in_two_parts_is_the_whole(history: list[tuple[int, int | None]], cut: int) -> None:
    whole = names(history)
    assert names(history, until_us=cut) + names(history, since_us=cut) == whole
    assert sorted(whole) == sorted(
        [f"t{number}" for number in range(len(history))]
        + [f"label of t{number}" for number, (_, known) in enumerate(history) if known is not None]
    )


@given(histories)
def test_no_transaction_comes_before_a_label_that_it_may_know(history: list[tuple[int, int | None]]) -> None:
    moment_us = 0
    for event in timeline(batches(history), SCHEMA, Stretch()):
        time_us = event.known_at_us if isinstance(event, Label) else event.event_time_us
        assert time_us >= moment_us
        moment_us = time_us


def test_the_extent_of_a_stretch() -> None:
    history = [(0, None), (10, None), (20, None), (30, None)]
    assert extent(batches(history), Stretch()) == Extent(4, T0, T0 + 30 * SECOND)
    assert extent(batches(history), Stretch(limit=2)) == Extent(2, T0, T0 + 10 * SECOND)
    assert extent(batches(history), Stretch(since_us=T0 + 5 * SECOND, limit=2)) == Extent(
        2, T0 + 10 * SECOND, T0 + 20 * SECOND
    )
    assert extent([], Stretch()).transactions == 0


class Clock:
    """A clock that only waiting and working move; ``late``: how much later than asked a wait returns."""

    def __init__(self, late_s: Sequence[float] = ()) -> None:
        self.now_s = 1_000.0
        self.waits = 0
        self._late_s = list(late_s)

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> bool:
        assert seconds > 0, "a busy loop"
        self.now_s += seconds + (self._late_s[self.waits % len(self._late_s)] if self._late_s else 0.0)
        self.waits += 1
        return False


class Receiving:
    """Takes everything, in ``takes_s`` each, and notes when; ``refuses`` some, fails at ``fails_at``."""

    def __init__(
        self, clock: Clock, takes_s: float = 0.0, refuses: Callable[[Item], str | None] = lambda item: None
    ) -> None:
        self.items: list[tuple[float, Item]] = []
        self.fails_at: str | None = None
        self.holds: list[tuple[Item, Told]] | None = None
        self.closed = False
        self._clock, self._takes_s, self._refuses = clock, takes_s, refuses

    def send(self, item: Item, told: Told) -> bool:
        if item.transaction_id == self.fails_at:
            raise StreamError("the broker is gone")
        self.items.append((self._clock.now_s, item))
        self._clock.now_s += self._takes_s
        if self.holds is not None:
            self.holds.append((item, told))
        else:
            told(self._refuses(item))
        return True

    def poll(self) -> None:
        pass

    def flush(self, within_s: float | None = None) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    @property
    def times(self) -> list[float]:
        return [at - self.items[0][0] for at, _ in self.items]


def play(
    history: History,
    receiver: Receiving,
    clock: Clock,
    ending: threading.Event | None = None,
    *,
    shift_us: int = 0,
    now_us: int = T0 * 2,
    **pace: float,
) -> Played:
    events = timeline(batches(history, 1_000), SCHEMA, Stretch())
    player = Player(
        receiver,
        ItemWriter(SCHEMA, shift_us),
        Pace(clock=clock, **pace),
        ending or threading.Event(),
        clock=clock,
        wait=clock.wait,
        now_us=lambda: now_us,
    )
    return player.play(events, len(history))


@settings(max_examples=25)
@given(
    st.sampled_from([5.0, 100.0, 700.0]),
    st.lists(st.floats(0, 0.02), min_size=1, max_size=7),
    st.floats(0, 0.0002),
)
def test_a_rate_is_kept_whatever_timers_do(rate: float, late_s: list[float], takes_s: float) -> None:
    clock = Clock(late_s)
    receiver = Receiving(clock, takes_s)
    count = int(2 * rate) + 1
    play([(0, None)] * count, receiver, clock, rate=rate)
    assert receiver.times[-1] == pytest.approx(2.0, rel=0.03, abs=0.03)
    # never more than the rate over any stretch, but for what a timer made late
    most = rate * BURST_S + 2
    for first in range(0, count, max(1, count // 50)):
        for last in range(first, count, max(1, count // 50)):
            assert last - first <= rate * (receiver.times[last] - receiver.times[first]) + most


def test_a_speed_keeps_the_gaps() -> None:
    clock = Clock()
    receiver = Receiving(clock)
    played = play([(0, 90), (60, None), (61, None), (180, None)], receiver, clock, speed=60)
    assert receiver.times == pytest.approx([0, 1.0, 61 / 60, 1.5, 3.0], abs=0.002)
    assert (played.transactions, played.labels, played.ended) == (4, 1, False)
    assert clock.waits < 30


def test_a_speed_is_never_above_the_rate() -> None:
    clock = Clock()
    receiver = Receiving(clock)
    play([(0, None), (1, None), (2, None), (600, None)], receiver, clock, speed=60, rate=2)
    assert receiver.times == pytest.approx([0, 0.5, 1.0, 10.0], abs=0.002)


def test_without_a_pace_nothing_waits() -> None:
    clock = Clock()
    receiver = Receiving(clock, 0.01)
    played = play([(hour * 3_600, None) for hour in range(10)], receiver, clock)
    assert clock.waits == 0
    assert played.rate == pytest.approx(100, rel=0.01)


def test_labels_do_not_count_for_the_rate() -> None:
    clock = Clock()
    receiver = Receiving(clock)
    play([(0, 1), (5, 6), (10, 11)], receiver, clock, rate=10)
    assert receiver.times[-2] == pytest.approx(0.2, abs=0.002)


def test_what_is_refused_is_counted_by_reason() -> None:
    clock = Clock()
    receiver = Receiving(clock, refuses=lambda item: "409 Conflict" if item.transaction_id in ("t1", "t3") else None)
    played = play([(second, None) for second in range(5)], receiver, clock)
    assert played.refused == {"409 Conflict": 2}
    assert played.examples == {"409 Conflict": "t1"}
    assert (played.transactions, played.ended, played.resume_us) == (3, False, None)


def test_a_receiver_that_fails_says_from_where_to_go_on() -> None:
    clock = Clock()
    receiver = Receiving(clock)
    receiver.fails_at = "t3"
    played = play([(second, None) for second in range(5)], receiver, clock)
    assert isinstance(played.failure, StreamError)
    assert played.resume_us == T0 + 3 * SECOND
    assert receiver.closed


def test_what_was_not_confirmed_is_sent_again() -> None:
    clock = Clock()
    receiver = Receiving(clock)
    receiver.fails_at, receiver.holds = "t3", []
    played = play([(second, None) for second in range(5)], receiver, clock)
    assert (played.transactions, played.resume_us) == (0, T0)


def test_ended_while_it_waits() -> None:
    ending = threading.Event()
    clock = Clock()
    receiver = Receiving(clock)
    played = Player(
        receiver,
        ItemWriter(SCHEMA),
        Pace(speed=1, clock=clock),
        ending,
        clock=clock,
        wait=lambda seconds: clock.wait(seconds) or clock.now_s > 1_005,
    ).play(timeline(batches([(0, None), (2, None), (60, None)]), SCHEMA, Stretch()), 3)
    assert (played.transactions, played.ended, played.failure) == (2, True, None)
    assert played.resume_us == T0 + 60 * SECOND


def test_labels_that_nobody_knows_yet_are_not_sent() -> None:
    clock = Clock()
    receiver = Receiving(clock)
    played = play([(0, 10), (5, 90)], receiver, clock, now_us=T0 + 60 * SECOND)
    assert (played.labels, played.not_yet) == (1, 1)
    assert [item.transaction_id for _, item in receiver.items if item.is_label] == ["t0"]


def test_all_times_are_moved_by_the_same() -> None:
    clock = Clock()
    receiver = Receiving(clock)
    play([(0, 10), (5, None)], receiver, clock, shift_us=86_400 * SECOND)
    bodies = [item.body for _, item in receiver.items]
    assert b'"time":"2024-05-02T00:00:00Z"' in bodies[0]
    assert b'"time":"2024-05-02T00:00:05Z"' in bodies[1]
    assert b'"known_at":"2024-05-02T00:00:10Z"' in bodies[2]
    assert receiver.items[0][1].time_us == T0


@given(
    st.integers(1, 1_000), st.integers(0, 10**6), st.sampled_from([None, 0.5, 1.0, 60.0]), st.sampled_from([None, 2.0])
)
def test_a_shifted_replay_never_runs_ahead_of_the_clock(
    count: int, whole_s: int, speed: float | None, rate: float | None
) -> None:
    now_us = T0 + 10**7 * SECOND
    found = Extent(count, T0, T0 + whole_s * SECOND)
    shift_us = found.shift_us(now_us, speed, rate)
    ends_s = max(whole_s / speed if speed else 0, (count - 1) / rate if rate else 0)
    assert found.first_us + shift_us <= now_us
    assert found.last_us + shift_us <= now_us + ends_s * SECOND + 1
    if speed == 1.0:
        assert now_us - SECOND < found.first_us + shift_us <= now_us
