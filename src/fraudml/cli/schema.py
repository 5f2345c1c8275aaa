"""``fraudml schema``: what the messages of a stream look like, and whether a change of fraudml.yaml breaks any."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import project
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project
from fraudml.errors import ConfigError
from fraudml.settings import settings

if TYPE_CHECKING:
    from fraudml.events.message_schema import Json

app = typer.Typer(help="Show the schemas of messages, find changes that break some.", no_args_is_help=True)


class Message(StrEnum):
    """What a stream carries."""

    transaction = "transaction"
    label = "label"
    decision = "decision"
    alert = "alert"


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="schema")


@app.command("show")
def show(
    message: Annotated[Message | None, typer.Argument(help="One kind of message; default: all four.")] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the fields of messages and the version of their schema; with --json as JSON Schema."""
    from fraudml.decisions.message_schema import messages

    declared, _ = read_project(project_file)
    described = messages(declared.schema)
    if as_json:
        output.result(described[message] if message else described)
        return
    for name in [message] if message else Message:
        _show(described[name])


@app.command("diff")
def diff(
    old: Annotated[str, typer.Argument(help="A project file, what `schema show --json` printed, or - for stdin.")],
    new: Annotated[str | None, typer.Argument(help="The same, to compare with; default: the project file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which changes between two schemas break messages that are sent already, or their readers.

    Exit code 1 when any does.
    """
    from fraudml.events.compatibility import changes
    from fraudml.events.message_schema import version_of

    before, after = _messages(old), _messages(new or str(settings().project))
    names = [name for name in Message if name in before and name in after]
    if not names:
        raise ConfigError("the two have no message in common; compare with a file of the same message, or of all")
    found = sorted((each for name in names for each in changes(before[name], after[name])), key=_breaking_first)
    versions = {name.value: (version_of(before[name]), version_of(after[name])) for name in names}
    compatible = all(change.compatible for change in found)
    if as_json:
        pairs = {name: {"old": then, "new": now} for name, (then, now) in versions.items()}
        listed = [change._asdict() for change in found]
        output.result({"compatible": compatible, "versions": pairs, "changes": listed})
    else:
        _show_changes(found, versions)
    if not compatible:
        raise typer.Exit(1)


def _breaking_first(change: Any) -> tuple[bool, int]:
    return change.compatible, list(Message).index(change.message)


def _messages(place: str) -> dict[str, Json]:
    """The schemas of a project file, or of a file that ``show`` made."""
    import msgspec

    from fraudml.decisions.message_schema import messages

    name = "standard input" if place == "-" else place
    if place == "-":
        text = sys.stdin.buffer.read()
    elif not Path(place).exists():
        return messages(project.read(Path(place)).schema)  # says what to do
    else:
        text = Path(place).read_bytes()
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        document = None
    if isinstance(document, dict) and "schema" not in document:
        return dict(_printed(document, name))
    try:
        return messages(project.parse(text.decode(), name).schema)
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {name}: {error}") from None


def _printed(document: Json, name: str) -> Iterator[tuple[str, Json]]:
    """What is in a file that ``show --json`` made, as it was printed: a schema has its own hash in it."""
    from fraudml.events.message_schema import version_of

    for described in [document] if "$id" in document else document.values():
        try:
            genuine = described["$id"] == f"urn:fraudml:{version_of(described)}" and described["title"] in {*Message}
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError):
            genuine = False
        if not genuine:
            raise ConfigError(f"{name} is not as `fraudml schema show --json` printed it; print it again")
        yield described["title"], described


def _show(described: Json) -> None:
    from fraudml.events.message_schema import version_of

    rows = [[*each] for each in _rows("", described)]
    output.table(["field", "type", "required", "meaning"], rows, title=version_of(described))


def _rows(path: str, described: Json) -> Iterator[tuple[str, str, str, str]]:
    from fraudml.events.message_schema import MEANING

    for column, shape in described["properties"].items():
        if "properties" in shape:
            yield from _rows(f"{path}{column}.", shape)
            continue
        meanings = (
            ("" if facts["is"] == name else f"{name}: ") + ", ".join(_fact(*fact) for fact in facts.items())
            for name, facts in shape.get(MEANING, {}).items()
        )
        told = "; ".join(meanings) or shape.get("description", "")
        yield f"{path}{column}", _type(shape), "yes" if column in described["required"] else "no", told


def _fact(name: str, value: Any) -> str:
    if name == "is":
        return str(value)
    return f"{name} {' '.join(value) if isinstance(value, list) else value}"


def _type(shape: Json) -> str:
    if "anyOf" in shape:
        return " or ".join(_type(each) for each in shape["anyOf"])
    if "enum" in shape:
        return " or ".join(shape["enum"])
    if "items" in shape:
        return f"list of {_type(shape['items'])}"
    named = shape.get("type", "any")
    return named if isinstance(named, str) else " or ".join(named)


def _show_changes(found: list[Any], versions: dict[str, tuple[str, str]]) -> None:
    for each in found:
        verdict = "compatible" if each.compatible else "breaking"
        told = f"{verdict:<10}  {each.message} {each.field}: {each.what}"
        output.results.print(told, markup=False, soft_wrap=True)
    for then, now in versions.values():
        output.results.print(f"{then} is as it was" if then == now else f"{then} -> {now}", markup=False)
