"""What has been judged so far, in a file: so a restart does not read the whole experiment again."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from fraudml.decisions.log import DecisionLog
from fraudml.monitoring.rollouts.evidence import Currency, Evidence, Span
from fraudml.monitoring.rollouts.kept import decode, encode

FORMAT = 1  # raise it with any change of what is counted or how it is kept
_DIGEST_BYTES = 16
logger = logging.getLogger(__name__)


class Checkpoint:
    """The state of :class:`Evidence` in one file, some 60 KB a challenger. Nothing depends on it but time: without it
    the same is counted again from the log.

    The file is a digest and a MessagePack of format, identity of the experiment, and state. Processes that share a home
    directory share the file; each replaces it whole, by what it has counted from the same log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False

    def save(self, evidence: Evidence) -> None:
        """Keep the state; a disk that does not take it is told of once."""
        body = encode({"format": FORMAT, "identity": evidence.identity, "state": evidence.kept()})
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(_digest(body) + body)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            if not self._failing:
                logger.warning("what was judged cannot be kept for a restart, which would count it again: %s", error)
            self._failing = True
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        else:
            self._failing = False

    def resume(self, span: Span, currency: Currency, log: DecisionLog) -> Evidence:
        """Evidence that goes on from what was kept of the same experiment, else from the experiment's beginning."""
        evidence = Evidence(span, currency)
        try:
            self._restore(evidence)
        except FileNotFoundError:
            return evidence
        except _OtherExperiment:
            logger.info("what was judged before is of another experiment; this one is counted from its beginning")
            return evidence
        except (OSError, ValueError, TypeError, KeyError, msgspec.MsgspecError, RecursionError) as error:
            return self._afresh(span, currency, str(error))
        if evidence.reached > max(span.after, log.last_arrival()):  # a backup of the log was restored
            return self._afresh(span, currency, "it has counted what is not in this log")
        return evidence

    def _restore(self, evidence: Evidence) -> None:
        data = self._path.read_bytes()
        body = data[_DIGEST_BYTES:]
        if data[:_DIGEST_BYTES] != _digest(body):
            raise ValueError("it is damaged")
        found = decode(body)
        if found["format"] != FORMAT:
            raise ValueError(f"it has format {found['format']}, not {FORMAT}")
        if found["identity"] != evidence.identity:
            raise _OtherExperiment
        evidence.restore(found["state"])

    def _afresh(self, span: Span, currency: Currency, why: str) -> Evidence:
        logger.warning("what was judged before is counted again from the log: %s: %s", self._path, why)
        return Evidence(span, currency)


class _OtherExperiment(Exception):
    pass


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()
