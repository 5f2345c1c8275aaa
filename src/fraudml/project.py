"""``fraudml.yaml``: the one file in which a project declares its data, its features and its costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fraudml.decisions.costs import Costs
from fraudml.errors import ConfigError
from fraudml.events.schema import Schema
from fraudml.features.spec import Feature, FeatureSet


class _Loader(yaml.SafeLoader):
    """YAML in which a date is text, as the schema wants it, and a key that occurs twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before anything is made of it; plain YAML would keep the last of two keys."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in first:
                lines = f"in line {first[key.tag, key.value]} and in line {line}"
                raise ConfigError(f"{key.value!r} is there twice, {lines}; make one of them")
            first[key.tag, key.value] = line
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Schema
    features: list[Feature]
    version: int = 1
    source: str | list[str] | None = None
    costs: Costs = Costs()


class Project:
    """A project file, read and checked; ``source`` is the files of its history, possibly none."""

    def __init__(self, schema: Schema, feature_set: FeatureSet, costs: Costs, source: Sequence[str] = ()) -> None:
        self.schema = schema
        self.feature_set = feature_set
        self.costs = costs
        self.source = source


def read(path: Path) -> Project:
    """Read a project file; raises ConfigError that names the place of the first mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no {path} here; make one with: fraudml init FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "fraudml.yaml") -> Project:
    """The project declared by a YAML text.

    >>> project = parse('''
    ... schema:
    ...   event_time: {column: time}
    ...   entities: {customer: cust}
    ... features:
    ...   - {name: n_1d, kind: window, over: customer, agg: count, length: 1d}
    ... ''')
    >>> project.feature_set.input_names
    ('n_1d',)
    """
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        file = msgspec.convert(document, _File)
        if file.version != 1:
            raise ConfigError(f"version {file.version} is not known; this fraudml reads version 1")
        schema = file.schema.check()
        source = [file.source] if isinstance(file.source, str) else file.source or []
        return Project(schema, FeatureSet(schema, file.features), file.costs.check(), [path for path in source if path])
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{name} is not valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deep to be a project file") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None
    except ConfigError as error:
        raise type(error)(f"{name}: {error}") from None
