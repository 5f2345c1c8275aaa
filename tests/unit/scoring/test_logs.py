"""One JSON object a line, whatever is logged."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fraudml.scoring.logs import JsonFormatter


def test_extras_and_exceptions_are_fields_of_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.getLogger("fraudml.x").makeRecord(
            "fraudml.x", logging.ERROR, "f", 1, "failed: %s", ("why",), (type(error), error, error.__traceback__)
        )
    record.__dict__.update({"request_id": "r1", "path": Path("a")})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["level"], found["request_id"], found["path"]) == ("failed: why", "error", "r1", "a")
    assert "ValueError" in found["exception"]
