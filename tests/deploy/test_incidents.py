"""Each injected incident raises the right alert within the time that the alert states, and a quiet week raises none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.support.incidents import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    PROMTOOL,
    REFERENCE_DAYS,
    Asked,
    Installation,
    Moment,
    Recording,
    ask,
    payments,
    without_waves,
)

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="no promtool")

RULES = sorted((Path(__file__).parents[2] / "deploy" / "prometheus" / "rules").glob("*.yml"))
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in RULES)
# When the monitor looked is a time of this machine's clock, not of the world's.
USED = set(re.findall(r"\bfraud_\w+", TEXT)) - {"fraud_monitor_run_timestamp_seconds"}
ALERTS = {
    rule["alert"]: rule
    for path in RULES
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
FIRED = 'count(count by (alertname) (count_over_time(ALERTS{{alertstate="firing"{which}}}[{length}s]))) or vector(0)'
UNITS = {"m": MINUTE_US, "h": HOUR_US, "d": DAY_US}  # as Prometheus writes durations
CUSTOMERS = 18_000  # of a busy installation: minutes have some transactions, too


def fired(length_us: int, which: str = "") -> str:
    """How many different alerts fired in that time."""
    return FIRED.format(which=which and f",{which}", length=length_us // 1_000_000)


class Incident(NamedTuple):
    """``begin`` changes the world; ``alert`` has to say so; ``beside``: alerts that follow from it, too.
    ``fraud_rate``: of the world."""

    alert: str
    begin: Callable[[Moment], None]
    beside: tuple[str, ...] = ()
    fraud_rate: float = 0.007


def slow_store(moment: Moment) -> None:
    moment.latency_s = 0.4


def dead_model(moment: Moment) -> None:
    moment.model_fails = True


def stuck_consumer(moment: Moment) -> None:
    moment.stream_moves = False


def store_gone(moment: Moment) -> None:
    moment.up["online_store"] = False


def fraud_wave(moment: Moment) -> None:
    moment.fraud_share = 0.3


def null_feature(moment: Moment) -> None:
    moment.amount = lambda amount: float("nan")


def shifted_unit(moment: Moment) -> None:
    moment.amount = lambda amount: amount * 100


def labels_stop(moment: Moment) -> None:
    moment.labels_come = False


QUICK = [
    Incident(
        "LatencyBudgetBurnsFast",
        slow_store,
        ("LatencyTailBurnsFast", "LatencyBudgetBurnsSlowly", "LatencyTailBurnsSlowly"),
    ),
    Incident("ModelFails", dead_model, ("FraudRateHigh",)),
    Incident("StreamStuck", stuck_consumer),
    Incident("Degraded", store_gone),
]
SLOW = [
    Incident("FraudRateHigh", fraud_wave),
    Incident("FeatureMissing", null_feature),
    Incident("FeatureDrifts", shifted_unit),
    Incident("LabelsStop", labels_stop, fraud_rate=0.03),  # some twenty reports a day
]


@pytest.mark.parametrize("incident", QUICK, ids=lambda each: each.alert)
def test_what_needs_minutes(incident: Incident, tmp_path: Path) -> None:
    """A scrape a minute: two good hours, then the incident."""
    world = Installation(tmp_path, payments(1, CUSTOMERS))
    world.step(12 * HOUR_US)  # the night, and the morning
    assert against(world, incident, tmp_path, MINUTE_US, 2 * HOUR_US) == ""


@pytest.mark.parametrize("incident", SLOW, ids=lambda each: each.alert)
def test_what_needs_hours(incident: Incident, tmp_path: Path) -> None:
    """A scrape every five minutes: four weeks that only the log has, two good days and a morning, then the incident."""
    traffic = payments(REFERENCE_DAYS + 4, fraud_rate=incident.fraud_rate)
    world = Installation(tmp_path, without_waves(traffic))
    world.history(REFERENCE_DAYS)
    assert against(world, incident, tmp_path, 5 * MINUTE_US, 2 * DAY_US + 12 * HOUR_US) == ""


def against(world: Installation, incident: Incident, folder: Path, step_us: int, good_us: int) -> str:
    """What speaks against this: nothing fires while all is good; then the alert, in its time, and none but it and what
    follows."""
    within = ALERTS[incident.alert]["annotations"]["fires_within"]
    within_us = int(within[:-1]) * UNITS[within[-1]]
    recording = Recording(USED)
    for number in range((good_us + within_us) // step_us + 1):
        if number == good_us // step_us:
            incident.begin(world.moment)
            world.monitor_every_us = max(15 * MINUTE_US, within_us // 24)
        world.look()
        recording.scrape(world)
        world.step(step_us)
    end_us = good_us + within_us
    expected = "|".join([incident.alert, *incident.beside])
    return ask(
        folder,
        RULES,
        recording,
        step_us,
        [
            Asked(fired(good_us), good_us, 0),
            Asked(fired(within_us, f'alertname="{incident.alert}"'), end_us, 1),
            Asked(fired(within_us, f'alertname!~"{expected}"'), end_us, 0),
        ],
    )


def test_a_quiet_week_raises_none(tmp_path: Path) -> None:
    world = Installation(tmp_path, without_waves(payments(REFERENCE_DAYS + 9)))
    world.history(REFERENCE_DAYS)
    recording = Recording(USED)
    step_us = 5 * MINUTE_US
    for _ in range(8 * DAY_US // step_us):
        world.look()
        recording.scrape(world)
        world.step(step_us)
    end_us = 8 * DAY_US - step_us
    asked = [Asked(fired(end_us, f'alertname="{alert}"'), end_us, 0) for alert in ALERTS]
    assert ask(tmp_path, RULES, recording, step_us, asked) == ""
