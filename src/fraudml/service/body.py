"""Request bodies: size, content type, and JSON read strictly."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from fraudml.errors import FieldProblem, RowError
from fraudml.service.problems import ProblemError
from fraudml.service.state import state_of

LARGE = 100_000  # bytes; reading more takes long enough for other requests to notice
BODY_WITHIN_S = 30.0  # a client that stops halfway does not hold a connection for good
# The form type is what `curl -d` declares unless told otherwise; a form in a browser cannot send an API key.
_JSON_TYPE = re.compile(r"application/(json|[\w.+-]+\+json|x-www-form-urlencoded)\s*(;.*)?", re.IGNORECASE)
_KEY_END = re.compile(rb'"\s*:')

T = TypeVar("T")


async def read_body(request: Request) -> bytes:
    """The whole body; 413 as soon as it is known to be too large, 415 when it is declared to be no JSON,
    408 when it stops arriving."""
    limit = state_of(request).settings.max_body_bytes
    content_type = request.headers.get("content-type")
    if content_type is not None and _JSON_TYPE.fullmatch(content_type.strip()) is None:
        raise ProblemError(415, "send JSON, with the header Content-Type: application/json")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    size = 0
    chunks = []
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise ProblemError(408, "the body did not arrive in time", {"Connection": "close"}) from None
    return b"".join(chunks)


async def parse(body: bytes, read: Callable[[bytes], T]) -> T:
    """What ``read`` makes of a body; a large one is read in another thread."""
    return await run_in_threadpool(read, body) if len(body) > LARGE else read(body)


def decode(raw: bytes) -> Any:
    """The JSON value; raises RowError for anything that is not strict JSON.

    Refused beyond the grammar: repeated names in an object, which readers understand differently (a way to
    smuggle a value past a check), numbers beyond a double, and nesting too deep to read.

    >>> decode(b'{"a": 1}')
    {'a': 1}
    """
    try:
        value = msgspec.json.decode(raw)
        # Where no quote is escaped, names cannot be more than there are '"' followed by ':'. Only when the count
        # does not settle it (a value that starts with a colon, an escape) the slow reader looks at every name.
        if b"\\" in raw or len(_KEY_END.findall(raw)) != _names(value):
            json.loads(raw, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except RecursionError:
        raise RowError([FieldProblem("", "expected JSON that is not nested this deep")]) from None
    except ValueError as error:  # msgspec's errors and invalid UTF-8; neither shows the data
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else "it is not UTF-8"
        raise RowError([FieldProblem("", f"expected JSON: {reason}")]) from None
    return value


def decode_object(raw: bytes) -> dict[str, Any]:
    """The same for a body that has to be an object."""
    value = decode(raw)
    if not isinstance(value, dict):
        raise RowError([FieldProblem("", "expected a JSON object")])
    return value


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


def _too_large(limit: int) -> ProblemError:
    # the rest of the body is not read, so the connection cannot be used again
    return ProblemError(413, f"a request may have {limit} bytes; split it into smaller ones", {"Connection": "close"})
