"""JSON read strictly: what two readers could understand differently is refused."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from typing import Any

import msgspec

from fraudml.errors import FieldProblem, RowError

NOT_AN_OBJECT = "expected a JSON object"
OTHER_ENCODING = "expected JSON in UTF-8 without a byte order mark, not another encoding or format"
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAME_END = re.compile(rb'"\s*:')


def decode(raw: bytes) -> Any:
    """The JSON value; raises RowError for anything that is not strict JSON.

    Refused beyond the grammar: repeated names in an object, which readers understand differently (a way to
    smuggle a value past a check), numbers beyond a double, and nesting too deep to read.

    >>> decode(b'{"a": 1}')
    {'a': 1}
    """
    try:
        value = msgspec.json.decode(raw)
        # Only when the count does not settle it (a value that starts with a colon) the slow reader looks at every name.
        if most_names(raw) != _names(value):
            json.loads(raw, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except RecursionError:
        raise RowError([FieldProblem("", "expected JSON that is not nested this deep")]) from None
    except ValueError as error:  # msgspec's errors and invalid UTF-8; neither shows the data
        if raw.startswith(_MARKS) or b"\0" in raw[:4]:  # as UTF-16, UTF-32 and binary formats begin
            raise RowError([FieldProblem("", OTHER_ENCODING)]) from None
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else "it is not UTF-8"
        raise RowError([FieldProblem("", f"expected JSON: {reason}")]) from None
    return value


def decode_object(raw: bytes) -> dict[str, Any]:
    """The same for a body that has to be an object.

    >>> decode_object(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    fraudml.errors.RowError: a: given twice
    """
    value = decode(raw)
    if not isinstance(value, dict):
        raise RowError([FieldProblem("", NOT_AN_OBJECT)])
    return value


def most_names(raw: bytes) -> int:
    """A bound: valid JSON holds at most this many names, repeated ones included.

    Every name ends in a quote, perhaps white space, and a colon; values may look so too, so it can be more than
    there are, never fewer. When a reader that keeps one of two equal names found this many, none was repeated.

    >>> most_names(b'{"a": {"b" : 1}}'), most_names(b'{"a": ":"}')
    (2, 2)
    """
    return len(_NAME_END.findall(raw))


def _names(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_names(item) for item in value.values() if isinstance(item, (dict, list)))
    if isinstance(value, list):
        return sum(_names(item) for item in value if isinstance(item, (dict, list)))
    return 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RowError([FieldProblem(repeated, "given twice")])
    return found
