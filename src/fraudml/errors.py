"""The error tree. A user sees one line of it, never a traceback.

::

    FraudmlError                    anything fraudml reports to a user (exit code 2, or problem+json)
    ├── ConfigError                 fraudml.yaml or a setting is wrong
    │   └── FeatureError            a feature declaration or a derived expression is wrong
    ├── DataError                   the data handed in cannot be used
    │   ├── RowError                one transaction or label is broken; names every wrong field
    │   └── TooManyRejects          more broken rows than the settings allow
    ├── TrainingError               the data is readable but no model can be trained on it
    ├── ExportError                 the ONNX model does not score like the native one
    ├── BundleError                 a bundle is corrupt, or belongs to another FeatureSet
    ├── RegistryError               the model registry cannot be reached or lacks what was asked for
    ├── NotFoundError               the named transaction, decision, key or model does not exist
    ├── ConflictError               the same identifier was seen before with other content
    ├── StoreError                  a backend failed; the driver's error is its cause
    │   ├── OfflineStoreError
    │   ├── OnlineStoreError
    │   │   └── StateLost       a shared store was emptied; history has to be loaded again
    │   ├── DecisionLogError
    │   ├── SourceError
    │   ├── WarehouseError
    │   ├── StreamError
    │   │   ├── TooLargeError   a message is larger than the broker takes
    │   │   └── FencedError     another process has the same name: it goes on in this one's place
    │   ├── CacheError
    │   └── ModelServerError
    ├── OverloadError               the service turned a request away; its text is for the client
    │   ├── Overloaded
    │   └── DeadlineExceeded
    └── MissingExtra                an optional dependency is not installed
"""

from __future__ import annotations

from dataclasses import dataclass


class FraudmlError(Exception):
    """Base of every error that fraudml reports; its text says what is wrong and what to do next."""


class ConfigError(FraudmlError):
    """``fraudml.yaml`` or a setting is wrong."""


class FeatureError(ConfigError):
    """A feature declaration or a derived expression is wrong."""


class DataError(FraudmlError):
    """The data handed in cannot be used."""


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field: where it is, what was expected. Never holds the offending value (it may be personal)."""

    path: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: {self.expected}" if self.path else self.expected  # without one it is about the whole


class RowError(DataError):
    """One transaction or label is broken.

    >>> str(RowError([FieldProblem("amount", "expected a number"), FieldProblem("time", "missing")]))
    'amount: expected a number; time: missing'
    """

    def __init__(self, problems: list[FieldProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))


class TooManyRejects(DataError):
    """More broken rows than the settings allow."""


class TrainingError(FraudmlError):
    """The data is readable but no model can be trained on it."""


class ExportError(FraudmlError):
    """The exported ONNX model does not score like the native one."""


class BundleError(FraudmlError):
    """A bundle is corrupt, or belongs to another FeatureSet."""


class RegistryError(FraudmlError):
    """The model registry cannot be reached or lacks what was asked for."""


class NotFoundError(FraudmlError):
    """The named transaction, decision, key or model does not exist."""


class ConflictError(FraudmlError):
    """The same identifier was seen before with other content."""


class StoreError(FraudmlError):
    """A backend failed; the driver's error is the cause (``__cause__``)."""


class OfflineStoreError(StoreError):
    """The offline store failed."""


class OnlineStoreError(StoreError):
    """The online store failed."""


class StateLost(OnlineStoreError):
    """A shared online store was emptied. The events of the call were added; what it holds is not to be trusted."""


class DecisionLogError(StoreError):
    """The decision log failed."""


class SourceError(StoreError):
    """The database that history is read from failed, or does not let us in."""


class WarehouseError(StoreError):
    """The warehouse that decisions are exported to failed."""


class StreamError(StoreError):
    """The stream of messages failed."""


class TooLargeError(StreamError):
    """A message is larger than the broker takes; nothing of its batch was published."""


class FencedError(StreamError):
    """Another process has taken this one's name and goes on in its place."""


class CacheError(StoreError):
    """The prediction cache failed; never reaches a client."""


class ModelServerError(StoreError):
    """The model server failed, or answered what cannot be right; never reaches a client: the local model scores."""


class OverloadError(FraudmlError):
    """The service turned a request away: too many wait, or its time was over. Its text is for the client."""


class Overloaded(OverloadError):
    """More requests wait than can be answered in time."""


class DeadlineExceeded(OverloadError):
    """The answer did not come in time. It may have been decided all the same: a retry gets that decision."""


class MissingExtra(FraudmlError):
    """An optional dependency is not installed.

    >>> str(MissingExtra("redis"))
    "this needs the extra 'redis'; install it with: pip install 'fraudml[redis]'"
    """

    def __init__(self, extra: str) -> None:
        self.extra = extra
        super().__init__(f"this needs the extra {extra!r}; install it with: pip install 'fraudml[{extra}]'")
