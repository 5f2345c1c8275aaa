"""Figures that pages quote are those of the code: defaults, limits, and what is allowed to wait for how long."""

from __future__ import annotations

import re

import pytest

from fraudml.adapters.connections.spark import EXECUTOR_WITHIN_S
from fraudml.adapters.log._checkpoint import PAGES
from fraudml.adapters.log._connection import PAGES_UNTIL_COMMITS_HELP
from fraudml.adapters.offline.spark import FILE_ROWS
from fraudml.adapters.online.redis.calls import KEPT_MS
from fraudml.decisions import recent
from fraudml.decisions.recorder import MOST_JOURNALED, MOST_PROBE_S, REPLAY_AT_ONCE
from fraudml.decisions.state import MISSED_LIMIT
from fraudml.monitoring.known import BLIND_US, CONCURRENT_US
from fraudml.scoring.refresh import ANSWER_S, FETCH_S
from fraudml.service.auth import KEYS_TTL_S
from fraudml.service.batch import PART, PARTS_WAITING
from fraudml.service.health import READY_WITHIN_S
from fraudml.service.pipeline import LEND_S, MOST_TOGETHER
from fraudml.service.problems import RETRY_AFTER_S
from fraudml.service.server import GRACE_S
from fraudml.settings import Settings
from fraudml.training.families.xgboost import XGBoostFamily
from fraudml.training.spark import HELD_BACK_ROWS, SAMPLE_ROWS
from fraudml.worker.labels import MOST_PATIENCE_US, PATIENCE_US
from tests.docs.blocks import DOCS

WORDS = {1.0: "every second", 2.0: "every two seconds"}
NUMBERS = {2: "two", 5: "five", 6: "six", 10: "ten"}
DURABILITY = "concepts/durability-and-idempotency.md"
HOT_PATH = "concepts/hot-path.md"
API = "reference/http-api.md"
SPARK = "howto/use-spark.md"
SAID = [
    (DURABILITY, f"asked again after a second, then after two, four and so on up to every {MOST_PROBE_S:g} seconds"),
    (DURABILITY, f"{REPLAY_AT_ONCE:,} decisions at a time"),
    (DURABILITY, f"The journal takes {MOST_JOURNALED:,} decisions"),
    (DURABILITY, f"the last {recent.MOST:,} of this process"),
    (DURABILITY, f"up to {MISSED_LIMIT:,} in memory"),
    (DURABILITY, f"{ANSWER_S:g} seconds to name a version and {FETCH_S:g} to give a bundle"),
    (DURABILITY, f"read again {WORDS[KEYS_TTL_S]}"),
    (DURABILITY, f"for up to {GRACE_S} seconds"),
    (DURABILITY, f"about every {PAGES * 4_096 // 2**20} MB"),
    (DURABILITY, f"At {PAGES_UNTIL_COMMITS_HELP * 4_096 // 2**20} MB of it they help"),
    (HOT_PATH, f"read again {WORDS[KEYS_TTL_S]}"),
    (HOT_PATH, f"at most {MOST_TOGETHER} transactions"),
    (HOT_PATH, f"waits for that batch, at most {LEND_S * 1_000:g} ms"),
    (HOT_PATH, f"in parts of {PART}, {NUMBERS[PARTS_WAITING]} at a time"),
    (HOT_PATH, f"At most {Settings.model_fields['max_waiting'].default:,} requests wait"),
    ("concepts/several-processes.md", f"did within {CONCURRENT_US // 10**6} seconds"),
    ("concepts/several-processes.md", f"for {NUMBERS[BLIND_US // 60_000_000]} minutes what it decided without Redis"),
    ("concepts/online-state-in-redis.md", f"kept for {NUMBERS[KEPT_MS // 60_000]} minutes"),
    ("concepts/streaming.md", f"up to {PATIENCE_US // 10**6} s later"),
    ("concepts/streaming.md", f"no more than {NUMBERS[MOST_PATIENCE_US // 3_600_000_000]} hours"),
    (API, f"in parts of {PART} transactions, {NUMBERS[PARTS_WAITING]} of which wait"),
    (API, f"has {READY_WITHIN_S:g} seconds to answer"),
    ("reference/metrics.md", f"at most {MOST_TOGETHER}"),
    ("reference/metrics.md", f"at {MOST_JOURNALED:,} the journal is full"),
    (SPARK, f"a first executor within {EXECUTOR_WITHIN_S:g} seconds"),
    (SPARK, f"in pieces of {FILE_ROWS:,} rows"),
    (SPARK, f"{HELD_BACK_ROWS:,} rows each"),
    (SPARK, f"{SAMPLE_ROWS:,} rows |"),
    (SPARK, f"{XGBoostFamily.defaults['genuine_per_fraud']:g} genuine transactions for each"),
    (SPARK, f"limit of {XGBoostFamily.defaults['max_rows']:,} rows"),
    ("reference/errors.md", f"gave no executor within {EXECUTOR_WITHIN_S:g} s"),
    ("reference/errors.md", f"`Retry-After: {RETRY_AFTER_S}`"),
]


@pytest.mark.parametrize(("page", "phrase"), SAID)
def test_a_page_says_what_the_code_does(page: str, phrase: str) -> None:
    assert phrase in " ".join((DOCS / page).read_text(encoding="utf-8").split())


def test_the_documented_defaults_of_settings_are_those_of_the_code() -> None:
    """Where the default is a plain value; other cells say in words where it comes from."""
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `FRAUDML_(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    fields = {name.upper(): field.default for name, field in Settings.model_fields.items() if field.default is not None}
    assert {name: _plain(fields[name]) for name in said} == said
    assert fields.keys() == said.keys()


def _plain(value: object) -> str:
    """As somebody writes it into the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
