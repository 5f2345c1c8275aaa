"""``fraudml.yaml`` as text: one line per column and feature, with the reason for each choice beside it."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fraudml.events.profile import TableProfile
from fraudml.features.spec import (
    AttributeFeature,
    DerivedFeature,
    Feature,
    LabelWindowFeature,
)
from fraudml.inference.guess import Guess

WIDTH = 110
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"[0-9]+(us|ms|s|min|h|d|w)")
_YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "t", "f", "none", "nan"})


def write_yaml(guess: Guess, features: Sequence[Feature], profile: TableProfile, costs: str) -> str:
    """The text of a project file; ``costs`` is the finished ``costs:`` block, from its first line on."""
    looked = "" if profile.sampled == profile.rows else f" (a sample of {profile.sampled:,} was looked at)"
    lines = [
        *_comment(
            f"What `fraudml init` made of {profile.source}: {profile.rows:,} rows, "
            f"{len(profile.columns)} columns{looked}."
        ),
        "# Everything here is a guess that you may correct; run `fraudml train` after a change.",
        *(line for warning in guess.warnings for line in _comment(f"Note: {warning}.")),
        "version: 1",
        f"source: {_value(profile.sources[0] if len(profile.sources) == 1 else profile.sources)}",
        "",
        *_schema(guess),
        "",
        costs.rstrip(),
        "",
        *_features(features),
    ]
    return "\n".join(lines) + "\n"


def _schema(guess: Guess) -> list[str]:
    schema, why = guess.schema, guess.reasons
    lines = ["schema:"]
    if schema.transaction_id is not None:
        lines += _entry("transaction_id", schema.transaction_id, why.get(schema.transaction_id))
    else:
        lines += _comment(why.get("transaction_id", ""), 2)
    lines += _entry("event_time", schema.event_time, why.get(schema.event_time.column))
    if schema.event_time.timezone:
        lines += _comment("timezone: the zone of times without one, such as Europe/Berlin; features' hours are UTC.", 2)
    if schema.entities:
        lines += _comment("Entities: what features count and average over. Name: column.", 2)
        lines.append("  entities:")
        for name, column in schema.entities.items():
            lines += _entry(name, column, why.get(column), 4)
    if schema.amount is not None:
        lines += _comment("currency: its ISO 4217 code; decimals: 2 for cents, 0 for yen.", 2)
        lines += _entry("amount", schema.amount, why.get(schema.amount.column))
    if schema.attributes:
        lines += _comment("Attributes: number, integer, boolean, category (with its vocabulary) or time.", 2)
        lines.append("  attributes:")
        for name, attribute in schema.attributes.items():
            lines += _entry(name, attribute, why.get(attribute.column or name), 4)
    if schema.label is not None:
        lines += _comment("delay: how long after the event a label is known, where no column says (known_at does).", 2)
        lines += _comment(why.get("label.delay", ""), 2)
        lines += _entry("label", schema.label, why.get(schema.label.column))
    if schema.ignore:
        lines += _comment("Columns that nothing reads; requests may still carry them.", 2)
        lines.append("  ignore:")
        for column in schema.ignore:
            lines += [f"    - {_scalar(column)}{_note(why.get(column, '').removeprefix('ignored: '))}"]
    return lines


def _features(features: Sequence[Feature]) -> list[str]:
    lines = [
        *_comment(
            "Features. A window looks at the entity's transactions in [t - length, t), never at the transaction "
            "itself; resolution: 1h lets the tail of a long window of a busy entity move in steps of an hour. A "
            "label_window does the same over labels at the time each became known. input: false keeps a feature "
            "from the model."
        ),
        "features:",
    ]
    group = ""
    for feature in features:
        found = _group(feature, group)
        if found != group:
            lines.append(f"  # {found}")
            group = found
        lines.append(f"  - {_flow(feature)}")
    return lines


def _group(feature: Feature, current: str) -> str:
    if isinstance(feature, AttributeFeature):
        return "The transaction itself"
    if isinstance(feature, DerivedFeature):
        return current if "_amount_" in feature.name else "Distances and speeds"
    if isinstance(feature, LabelWindowFeature):
        return f"Frauds reported of the same {feature.over}"
    return f"Earlier transactions of the same {feature.over}"


def _entry(key: str, value: Any, why: str | None, indent: int = 2) -> list[str]:
    line = f"{' ' * indent}{_scalar(key)}: {_value(value)}"
    note = _note(why)
    return [line + note] if len(line) + len(note) <= WIDTH else [*_comment(why or "", indent), line]


def _note(why: str | None) -> str:
    return f"  # {_one_line(why)}" if why else ""


def _comment(text: str, indent: int = 0) -> list[str]:
    prefix = " " * indent + "# "
    return textwrap.wrap(_one_line(text), WIDTH, initial_indent=prefix, subsequent_indent=prefix)


def _one_line(text: str) -> str:
    """Column names come from files: nothing in them may end a comment."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _flow(value: Any) -> str:
    """A struct as a flow mapping, without the fields that have their default."""
    fields = msgspec.structs.fields(value)
    shown = {}
    tag = msgspec.structs.asdict(value)
    for field in fields:
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if tag[field.name] != default or default is msgspec.NODEFAULT:
            shown[field.name] = tag[field.name]
    kind = value.__struct_config__.tag
    if kind is not None:
        shown = {"name": shown.pop("name"), "kind": kind, **shown}
    return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in shown.items()) + "}"


def _value(item: Any) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, (int, float)):
        return repr(item)
    if isinstance(item, str):
        return _scalar(str(item))
    if isinstance(item, msgspec.Struct):
        return _flow(item)
    items: Iterable[Any] = item
    return "[" + ", ".join(_value(each) for each in items) + "]"


def _scalar(text: str) -> str:
    """A YAML scalar that reads back as this very text; JSON's strings are YAML's double-quoted ones."""
    if (_PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS) or _DURATION.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
