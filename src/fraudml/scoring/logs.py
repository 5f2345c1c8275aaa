"""Structured logs: one JSON object a line, on standard error."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

# What every record has; what else is on one was passed as ``extra``.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record and its extras as one line of JSON.

    >>> record = logging.makeLogRecord({"msg": "request", "levelname": "INFO", "created": 0, "status": 200})
    >>> JsonFormatter().format(record)
    '{"time":"1970-01-01T00:00:00.000+00:00","level":"info","logger":null,"message":"request","status":200}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in record.__dict__.items() if name not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(level: str) -> None:
    """Send the logs of fraudml and of the server to standard error at this level (``debug`` ... ``error``)."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    for name in ("fraudml", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
