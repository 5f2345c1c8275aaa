"""``fraudml dlq``: messages that could not be used, to look at and to send once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson
from fraudml.errors import ConfigError, FencedError, NotFoundError, StreamError
from fraudml.settings import settings

if TYPE_CHECKING:
    from fraudml.settings import Settings
    from fraudml.worker.letters import DeadLetter, DeadLetters, Resent

app = typer.Typer(help="Look at messages that could not be used, send them once more.", no_args_is_help=True)
SHOWN_TEXT, SHOWN_ERROR = 2_000, 160  # characters
SKIPPED = 1  # the exit code

Topic = Annotated[str | None, typer.Option(help="Only those of: transactions, or labels; default: both.")]


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="dlq")


@app.command("list")
def show_all(
    topic: Topic = None,
    limit: Annotated[int, typer.Option(min=1, help="No more than so many.")] = 50,
    replayed: Annotated[bool, typer.Option("--replayed", help="Also those that were replayed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the dead letters that were not replayed yet, the oldest first."""
    current = settings()
    with _opened(current, topic) as (letters, _):
        found, count = letters.waiting(limit, replayed=replayed)
    if as_json:
        output.result({"count": count, "dead_letters": [_summary(letter) for letter in found]})
        return
    if not found:
        output.results.print("There are no dead letters." if replayed else "No dead letters wait.")
        return
    rows = [[each.id, _iso(each.died_at_us)[:19], _safe(_short(each.error)), f"{_size(each):,}"] for each in found]
    output.table(["id", "died at (UTC)", "error", "bytes"], rows)
    if count > len(found):
        output.results.print(f"and {count - len(found):,} more: --limit")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="As fraudml dlq list prints it.")],
    raw: Annotated[Path | None, typer.Option(help="Write the message's bytes into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why it died, where it came from, what is in it."""
    with _opened(settings(), None) as (letters, _):
        letter = letters.find(name)
        if raw is not None:
            raw.write_bytes(letters.whole(letter) or b"")
    told = _summary(letter) | _content(letter)
    if as_json:
        output.result(told)
        return
    for label in ("id", "error", "source", "died_at", "key"):
        output.results.print(f"{label.replace('_', ' '):<10}{_safe(told[label])}", markup=False, soft_wrap=True)
    for header, value in told["headers"].items():
        output.results.print(_safe(f"header    {header}: {value}"), markup=False, soft_wrap=True)
    output.results.print(f"bytes     {told['bytes']:,}", markup=False)
    output.results.print(_safe(told["value"]), markup=False, soft_wrap=True)
    if told["note"]:
        output.remarks.print(told["note"], style="yellow", markup=False)


@app.command("replay")
def replay(
    names: Annotated[list[str] | None, typer.Argument(metavar="IDS", help="As fraudml dlq list prints them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not replayed yet, in order.")] = False,
    topic: Topic = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to the topics they came from, with the bytes, keys and headers they had.

    Exit code 1 when some could not be.
    """
    if bool(names) == everything:
        raise ConfigError("name the dead letters to replay, or say --all")
    current = settings()
    try:
        with (
            _opened(current, topic, moves=True) as (letters, mover),
            output.steps(quiet=as_json) as steps,
            steps.step("Replay dead letters", unit="messages") as progress,
        ):
            if names:
                resent = letters.replay(mover, [letters.find(name) for name in names])
            else:
                resent = letters.replay_all(mover, progress)
    except FencedError as error:
        raise StreamError(
            "another `fraudml dlq replay` was started and goes on in place of this one; what it had sent stays sent"
        ) from error
    if as_json:
        skipped = [{"id": name, "reason": why} for name, why in resent.skipped]
        output.result({"replayed": resent.topics, "skipped": skipped})
    else:
        _tell(resent)
    if resent.skipped:
        raise typer.Exit(SKIPPED)


@contextmanager
def _opened(current: Settings, topic: str | None, *, moves: bool = False) -> Iterator[tuple[DeadLetters, Any]]:
    """The dead letters of the topics chosen, and what moves them if that is wanted."""
    from fraudml.worker.dead_letters import SUFFIX
    from fraudml.worker.letters import DeadLetters

    known = {"transactions": current.topic_transactions, "labels": current.topic_labels}
    if topic is not None and topic not in known and topic not in known.values():
        raise ConfigError(f"--topic {topic!r} has no dead letters: write transactions or labels")
    chosen = list(known.values()) if topic is None else [known.get(topic, topic)]
    there = wiring.administration(current).cluster().topics
    needed = [each for source in chosen for each in (source + SUFFIX, *([source] if moves else ()))]
    if missing := [each for each in needed if each not in there]:
        raise NotFoundError(f"Kafka has no topic {' and no topic '.join(missing)}; make it with: fraudml stream init")
    group = wiring.dead_letter_group(current)
    reader = wiring.mover(current) if moves else wiring.topic_reader(current, group)
    with closing(reader), closing(wiring.topic_reader(current, group)) as sources:
        yield DeadLetters(reader, sources, {source + SUFFIX: there[source + SUFFIX] for source in chosen}), reader


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.topic,
        "error": letter.error,
        "source": letter.source,
        "died_at": _iso(letter.died_at_us),
        "bytes": _size(letter),
    }


def _content(letter: DeadLetter) -> dict[str, Any]:
    value = letter.message.value or b""
    shown, binary = _readable(value)
    notes = [
        *(["not UTF-8 text: shown in hexadecimal"] if binary else []),
        *(
            [f"only the beginning is shown: --raw FILE writes all {_size(letter):,} bytes"]
            if len(shown) > SHOWN_TEXT
            else []
        ),
        *([f"only its first {len(value):,} bytes are kept here"] if letter.cut_from is not None else []),
    ]
    return {
        "key": None if letter.message.key is None else _readable(letter.message.key)[0],
        "headers": {name: _readable(value)[0] for name, value in letter.headers},
        "value": shown[:SHOWN_TEXT],
        "binary": binary,
        "note": "; ".join(notes),
    }


def _readable(value: bytes) -> tuple[str, bool]:
    """Text, or what is none in hexadecimal."""
    try:
        return value.decode(), False
    except UnicodeDecodeError:
        return value.hex(), True


def _safe(value: object) -> str:
    """Without what a terminal would take for commands: anybody who may publish has written it.

    >>> print(_safe("a\x1b[2Jb"))
    a\\x1b[2Jb
    """
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in str(value))


def _size(letter: DeadLetter) -> int:
    return letter.cut_from if letter.cut_from is not None else len(letter.message.value or b"")


def _tell(resent: Resent) -> None:
    for topic, count in resent.topics.items():
        output.results.print(f"{count:,} dead letters went back to {topic}", markup=False)
    if not resent.topics and not resent.skipped:
        output.results.print("No dead letters wait.")
    for name, why in resent.skipped:
        output.remarks.print(f"skipped {name}: {why}", style="yellow", markup=False, soft_wrap=True)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_ERROR else text[: SHOWN_ERROR - 3] + "..."


def _iso(moment_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)).isoformat().replace("+00:00", "Z")
