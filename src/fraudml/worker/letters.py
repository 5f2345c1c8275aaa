"""Dead letters once more: what they say, which of them wait, and back to the topics that they came from."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from fraudml.decisions.stream import Headers, Message, Outgoing, Partition
from fraudml.errors import ConfigError, NotFoundError, TooLargeError
from fraudml.events.source import Progress
from fraudml.worker.dead_letters import CUT, DIED_AT, ERROR, OWN, SOURCE, SUFFIX

AT_ONCE, BYTES_AT_ONCE = 500, 8_000_000  # of one transaction of Kafka
NOT_OURS = "not published by a worker of fraudml"


class Reader(Protocol):
    """Reads topics, and knows where the group of the replays is."""

    def committed(self, places: Sequence[Partition]) -> dict[Partition, int]:
        """The next offsets to replay."""
        ...

    def read(self, starts: Mapping[Partition, int], ends: Mapping[Partition, int] | None = None) -> Iterator[Message]:
        """Messages from offsets on."""
        ...

    def spans(self, starts: Mapping[Partition, int]) -> dict[Partition, tuple[int, int]]:
        """Of each partition the first offset with a message, and the end."""
        ...

    def at(self, place: Partition, offset: int) -> Message | None:
        """The message at an offset."""
        ...


class Mover(Reader, Protocol):
    """Also publishes and moves the group, as one."""

    def move(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int]) -> None:
        """Raises ``TooLargeError`` where the broker does not take a message; nothing is done then."""
        ...


class DeadLetter(NamedTuple):
    """A message on a topic of dead letters. ``topic``: where it came from and goes back to; ``source``: its place
    there, ``None`` where it does not say; ``cut_from``: its whole size, where only the beginning was kept."""

    message: Message
    topic: str
    error: str
    source: str | None
    died_at_us: int
    cut_from: int | None

    @property
    def id(self) -> str:
        """Its place among the dead letters."""
        return self.message.source

    @property
    def headers(self) -> Headers:
        """Those that it came with."""
        return [(name, value) for name, value in self.message.headers if name not in OWN]


class Resent(NamedTuple):
    """``topics``: how many went back to each; ``skipped``: the ids of the others, and why."""

    topics: dict[str, int]
    skipped: list[tuple[str, str]]


def opened(message: Message) -> DeadLetter:
    """What a message of a topic of dead letters says.

    >>> from fraudml.worker.dead_letters import dead_letter
    >>> dead = dead_letter(Message("labels", 0, 7, b"c1", b"{", [("trace", b"1")]), "not JSON")
    >>> letter = opened(Message(dead.topic, 0, 1, dead.key, dead.value, dead.headers))
    >>> letter.id, letter.topic, letter.error, letter.source, letter.headers
    ('labels.dlq/0/1', 'labels', 'not JSON', 'labels/0/7', [('trace', b'1')])
    """
    said = {name: value.decode(errors="replace") for name, value in message.headers if name in OWN}
    died_at, cut = said.get(DIED_AT, ""), said.get(CUT, "")
    return DeadLetter(
        message,
        message.topic.removesuffix(SUFFIX),
        said.get(ERROR, NOT_OURS),
        said.get(SOURCE),
        int(died_at) if died_at.isdecimal() else message.time_us,
        int(cut) if cut.isdecimal() else None,
    )


def place_of(source: str) -> tuple[Partition, int]:
    """Partition and offset of a message's place; raises ConfigError.

    >>> place_of("transactions.dlq/3/17")
    (('transactions.dlq', 3), 17)
    """
    topic, _, rest = source.partition("/")
    number, _, offset = rest.partition("/")
    if not topic or not number.isdecimal() or not offset.isdecimal():
        raise ConfigError(
            f"{source!r} is no dead letter's id: they are like transactions{SUFFIX}/0/17; see fraudml dlq list"
        )
    return (topic, int(number)), int(offset)


class DeadLetters:
    """The dead letters of some topics. ``partitions``: of each such topic; ``sources`` reads what was cut: another
    reader, since this one is amid a topic then."""

    def __init__(self, reader: Reader, sources: Reader, partitions: Mapping[str, int]) -> None:
        self._reader = reader
        self._sources = sources
        self._places = [(topic, number) for topic, count in partitions.items() for number in range(count)]

    def waiting(self, limit: int, *, replayed: bool = False) -> tuple[list[DeadLetter], int]:
        """The oldest so many that were not replayed yet (of all there are, with ``replayed``), by the time at which
        they died; and how many there are."""
        starts = dict.fromkeys(self._places, 0) if replayed else self._reader.committed(self._places)
        count = 0

        def counted() -> Iterator[DeadLetter]:
            nonlocal count
            for message in self._reader.read(starts):
                count += 1
                yield opened(message)

        return heapq.nsmallest(limit, counted(), key=_age), count

    def find(self, name: str) -> DeadLetter:
        """The dead letter of an id; raises NotFoundError, and ConfigError for what is none."""
        place, offset = place_of(name)
        if place not in self._places:
            topics = " and ".join(dict.fromkeys(topic for topic, _ in self._places))
            raise NotFoundError(f"there is no {name}: dead letters are in {topics}; see fraudml dlq list")
        message = self._reader.at(place, offset)
        if message is None:
            raise NotFoundError(f"there is no dead letter {name} (any more); see fraudml dlq list --replayed")
        return opened(message)

    def whole(self, letter: DeadLetter) -> bytes | None:
        """The value as it came; raises NotFoundError where it was cut and is no longer whole at its source."""
        if letter.cut_from is None:
            return letter.message.value
        kept = letter.message.value or b""
        place, offset = place_of(letter.source or "")
        if place[0] != letter.topic:
            raise NotFoundError(f"it was cut, and says that it came from {letter.source}, not from {letter.topic}")
        found = self._sources.at(place, offset)
        value = b"" if found is None else found.value or b""
        if len(value) != letter.cut_from or not value.startswith(kept):
            raise NotFoundError(
                f"only its first {len(kept):,} of {letter.cut_from:,} bytes were kept, and the whole is no longer at "
                f"{letter.source}"
            )
        return value

    def replay_all(self, mover: Mover, progress: Progress | None = None) -> Resent:
        """All that wait now, in order within each partition; what dies again meanwhile waits for the next time."""
        starts = mover.committed(self._places)
        spans = mover.spans(starts)
        ends = {place: end for place, (first, end) in spans.items() if first < end}
        sending = _Sending(self, mover)
        passed, total = 0, sum(end - first for first, end in spans.values())
        done: dict[Partition, int] = {}
        batch: list[DeadLetter] = []
        for message in mover.read(starts, ends):
            batch.append(opened(message))
            if len(batch) >= AT_ONCE or sum(len(each.message.value or b"") for each in batch) >= BYTES_AT_ONCE:
                sending.move(batch, _behind(batch))
                batch = []
            done[message.topic, message.partition] = message.offset + 1
            if progress is not None:
                passed = sum(offset - spans[place][0] for place, offset in done.items())
                progress(passed, max(total, passed))
        if batch:
            sending.move(batch, _behind(batch))
        return sending.resent()

    def replay(self, mover: Mover, letters: Sequence[DeadLetter]) -> Resent:
        """These, in order within each partition. The group moves past those that are the next ones to replay."""
        chosen = {letter.id: letter for letter in letters}
        done = dict(self._next_ones(mover, chosen))
        ordered = sorted(chosen.values(), key=lambda letter: (letter.message.topic, letter.message.offset))
        sending = _Sending(self, mover)
        for first in range(0, len(ordered), AT_ONCE):
            batch = ordered[first : first + AT_ONCE]
            last = first + AT_ONCE >= len(ordered)
            sending.move(batch, done if last else {})
        return sending.resent()

    def _next_ones(self, mover: Mover, chosen: Mapping[str, DeadLetter]) -> Iterator[tuple[Partition, int]]:
        places = {(letter.message.topic, letter.message.partition) for letter in chosen.values()}
        for place, start in mover.committed(sorted(places)).items():
            for message in mover.read({place: start}):
                if message.source not in chosen:
                    break
                yield place, message.offset + 1


class _Sending:
    """Sends dead letters back, and remembers what became of them."""

    def __init__(self, letters: DeadLetters, mover: Mover) -> None:
        self._letters = letters
        self._mover = mover
        self._topics: Counter[str] = Counter()
        self._skipped: list[tuple[str, str]] = []

    def resent(self) -> Resent:
        """What became of all."""
        return Resent(dict(self._topics), self._skipped)

    def move(self, batch: Sequence[DeadLetter], done: Mapping[Partition, int]) -> None:
        """As one; one by one where a message is too large for the broker."""
        outgoing, skipped = [], []
        for letter in batch:
            try:
                value = self._letters.whole(letter)
            except NotFoundError as error:
                skipped.append((letter.id, str(error)))
            else:
                message = letter.message
                outgoing.append(
                    (letter, Outgoing(letter.topic, message.key, value, letter.headers, _partition(letter)))
                )
        try:
            self._mover.move([each for _, each in outgoing], done)
        except TooLargeError as error:
            if len(batch) > 1:
                for letter in batch:
                    place, behind = (letter.message.topic, letter.message.partition), letter.message.offset + 1
                    self.move([letter], {place: behind} if behind <= done.get(place, 0) else {})
                return
            outgoing, skipped = [], [(batch[0].id, str(error))]
            self._mover.move([], done)
        self._topics.update(letter.topic for letter, _ in outgoing)
        self._skipped += skipped


def _partition(letter: DeadLetter) -> int | None:
    """Back to the partition that it came from, so that it is in order with what is about the same entity."""
    try:
        (topic, number), _ = place_of(letter.source or "")
    except ConfigError:  # a header that no worker has written
        return None
    return number if topic == letter.topic else None


def _behind(batch: Iterable[DeadLetter]) -> dict[Partition, int]:
    return {(each.message.topic, each.message.partition): each.message.offset + 1 for each in batch}


def _age(letter: DeadLetter) -> tuple[int, str, int]:
    return letter.died_at_us, letter.message.topic, letter.message.offset
