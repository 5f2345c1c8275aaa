"""Facts about a model server: for ``fraudml doctor``."""

from __future__ import annotations

import statistics
import time

from fraudml.adapters.model_server.open_inference import OpenInferenceModel
from fraudml.decisions.servers import ServerFacts, Trouble
from fraudml.errors import ModelServerError

PINGS = 5


def facts(url: str, timeout_s: float) -> ServerFacts | Trouble:
    """What is there, and whether it has the model and is ready. Raises ``ConfigError``."""
    model = OpenInferenceModel(url, 0, timeout_s)
    try:
        found = model.describe()
        latency_ms = statistics.median(_ping_ms(model) for _ in range(PINGS))
    except ModelServerError as error:
        why, _, do = str(error).partition("; ")
        return Trouble(f"{model.place}: {why}", do or "see its log; meanwhile the local copy scores")
    return ServerFacts(
        place=model.place,
        product=found.server.name or "a V2 server",
        version=found.server.version or "of an unknown version",
        latency_ms=latency_ms,
        details={"versions": ", ".join(found.versions)} if found.versions else {},
    )


def _ping_ms(model: OpenInferenceModel) -> float:
    started = time.perf_counter()
    model.check_ready()
    return (time.perf_counter() - started) * 1_000
