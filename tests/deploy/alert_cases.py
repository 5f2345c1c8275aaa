"""For each alert what makes it fire, and what must not: series as promtool writes them, and how many alerts fire."""

from __future__ import annotations

from typing import NamedTuple

DAYS = 26 * 12  # steps of five minutes in a day and two hours
QUARTERS = 7 * 24 * 4  # steps of fifteen minutes in a week


class Case(NamedTuple):
    """``series``: values by series, ``interval`` apart; ``at``: when it is asked, ``alerts``: how many fire then;
    ``begins``: when the trouble does, which is no longer before ``at`` than the alert says; None where it is so small
    that no time is promised."""

    alert: str
    why: str
    series: dict[str, str]
    at: str
    alerts: int = 1
    interval: str = "1m"
    begins: str | None = "0m"


def share(flagged: str, genuine: str, instance: str = "a") -> dict[str, str]:
    """What a process predicted."""
    labels = f'model="fraud",job="fraudml-service",instance="{instance}"'
    return {
        f'fraud_predictions_total{{label="fraud",{labels}}}': flagged,
        f'fraud_predictions_total{{label="genuine",{labels}}}': genuine,
    }


def answered(slow: str, every: str, objective: str) -> dict[str, str]:
    """How many requests were answered late, of how many."""
    return {
        f'fraud_slow_requests_total{{objective="{objective}",instance="a"}}': slow,
        'fraud_prediction_latency_seconds_count{route="predict",instance="a"}': every,
    }


def requests(failed: str, good: str) -> dict[str, str]:
    """How requests over HTTP ended."""
    return {
        'fraud_http_requests_total{route="/v1/predict",status="500",instance="a"}': failed,
        'fraud_http_requests_total{route="/v1/predict",status="200",instance="a"}': good,
    }


def probes(failed: str) -> dict[str, str]:
    """What asks whether a service is ready."""
    return {'fraud_http_requests_total{route="/health/ready",status="503",instance="a"}': failed}


def others(*values: str) -> dict[str, str]:
    """More services."""
    return {f'up{{job="fraudml-service",instance="other-{place}"}}': each for place, each in enumerate(values)}


def up(job: str, values: str) -> dict[str, str]:
    """Whether a process could be scraped."""
    return {f'up{{job="{job}",instance="a"}}': values}


def gauge(name: str, values: str, **labels: str) -> dict[str, str]:
    """A gauge of one process."""
    told = ",".join(f'{label}="{value}"' for label, value in {"instance": "a", **labels}.items())
    return {f"{name}{{{told}}}": values}


def stream(waiting: str, handled: str, outcome: str = "decided") -> dict[str, str]:
    """A topic that a worker reads."""
    return {
        **gauge("fraud_stream_lag_messages", waiting, topic="transactions", partition="0"),
        **gauge("fraud_stream_messages_total", handled, topic="transactions", outcome=outcome),
    }


# 100 transactions in a quarter of an hour, one of them flagged; then a wave, or none is flagged any more
WAVE = share(f"0+1x{QUARTERS} {QUARTERS}+20x8", f"0+99x{QUARTERS + 8}")
AFTER = f"{7 * 24 + 1}h30m"
DAY = 96
STEADY = share(f"0+1x{DAY + 16}", f"0+99x{DAY + 16}")
BLIND = share(f"0+50x{DAY} {50 * DAY}x24", f"0+950x{DAY + 24}")
MONTH = "0.8x700"  # of hours

FIRES = [
    Case("FraudRateHigh", "a wave", WAVE, AFTER, 1, "15m", f"{7 * 24 + 1}h"),
    Case(
        "FraudRateHigh",
        "a wave in the second day of an installation",
        share("0+1x300 300+9x24", "0+99x324"),
        "26h",
        1,
        "5m",
        "25h",
    ),
    Case(
        "FraudRateHigh",
        "some more frauds than ever all day long, where there is little traffic",
        share(f"0+0.025x{DAY * 4} {DAY * 4 * 0.025}+0.25x{DAY}", f"0+2x{DAY * 5}"),
        "120h",
        1,
        "15m",
        None,
    ),
    Case("FraudRateLow", "a model that flags nothing any more", BLIND, "27h", 1, "15m", "24h"),
    Case(
        "DetectionRateFalls",
        "half of what it was",
        {**gauge("fraud_detection_rate", f"{MONTH} 0.4x48"), **gauge("fraud_detection_rate_high", "0.85x700 0.5x48")},
        "724h",
        1,
        "1h",
        "701h",
    ),
    Case(
        "FeatureMissing",
        "a feature that goes null",
        {
            **gauge("fraud_drift_missing_change", "0x10 0.2x30", feature="amount"),
            **gauge("fraud_drift_significant", "0x10 1x30", feature="amount"),
        },
        "20m",
    ),
    Case("FeatureDrifts", "drift that lasts", gauge("fraud_drift_significant", "1x60", feature="amount"), "45m"),
    Case("ScoreDrifts", "drift that lasts", gauge("fraud_drift_score_significant", "1x60"), "45m"),
    Case(
        "NewCategories", "a new country", gauge("fraud_drift_new_category_share", "0.05x60", feature="country"), "45m"
    ),
    Case(
        "TransactionsRejected",
        "a client that changed",
        {**share("0+1x60", "0+99x60"), 'fraud_rejected_total{reason="invalid",instance="a"}': "0+10x60"},
        "30m",
    ),
    Case(
        "TransactionsRejected",
        "all of them, and nothing was ever decided",
        {'fraud_rejected_total{reason="invalid",instance="a"}': "0+1x60"},
        "30m",
    ),
    Case("EventsLate", "late events", {**share("0+0x60", "0+100x60"), "fraud_late_total": "0+50x60"}, "40m"),
    Case(
        "ClockJumps",
        "events of the future",
        {**gauge("fraud_stream_event_delay_seconds", "2x10 -600x30"), **stream("0x40", "0+10x40")},
        "20m",
        begins="11m",
    ),
    Case(
        "ClockJumps",
        "a monitor that is an hour ahead",
        gauge("fraud_monitor_run_timestamp_seconds", "3600+60x30", task="drift"),
        "20m",
    ),
    Case(
        "LabelsStop",
        "twenty were expected",
        {**gauge("fraud_labels_expected", "20x60"), **gauge("fraud_label_age_seconds", "90000+60x60")},
        "40m",
    ),
    Case(
        "LabelsLate",
        "twice as late",
        gauge("fraud_label_delay_seconds", "86400x700 200000x48", quantile="0.5"),
        "740h",
        1,
        "1h",
        "701h",
    ),
    Case(
        "ModelFails",
        "no scores",
        {**share("0+50x30", "0+50x30"), 'fraud_degraded_total{reason="model",instance="a"}': "0+50x30"},
        "10m",
    ),
    Case(
        "ModelFails",
        "no scores, with a transaction a minute",
        {**share("0+1x30", "0x30"), 'fraud_degraded_total{reason="model",instance="a"}': "0+1x30"},
        "10m",
    ),
    Case("CanaryBreached", "at once", gauge("fraud_rollout_breached", "0x5 1x10"), "7m", begins="5m"),
    Case("JudgeLags", "for ten minutes", gauge("fraud_rollout_judge_lag_seconds", "120x30"), "15m"),
    Case("ModelRefused", "at once", gauge("fraud_model_swaps_total", "0x5 1x20", outcome="refused"), "8m", begins="5m"),
    Case(
        "ModelOld",
        "a bundle of 1970",
        gauge("fraud_bundle_trained_timestamp_seconds", "0x2000", version="1"),
        "1442h",
        1,
        "1h",
        "1440h",
    ),
    Case("ServiceDown", "for two minutes", up("fraudml-service", "1x5 0x10"), "9m", begins="5m"),
    Case("ServiceDown", "two of three", {**up("fraudml-service", "0x10"), **others("0x10", "1x10")}, "4m"),
    Case("ReplicaDown", "one of three", {**up("fraudml-service", "0x20"), **others("1x20", "1x20")}, "10m"),
    Case("WorkerDown", "for two minutes", up("fraudml-worker", "1x5 0x10"), "9m", begins="5m"),
    Case(
        "MonitorStale", "a job that fails", gauge("fraud_monitor_run_timestamp_seconds", "60x60", task="drift"), "38m"
    ),
    Case("MonitorStale", "a monitor that ended", up("fraudml-monitor", "0x60"), "10m"),
    Case(
        "MonitorStale",
        "one that nobody scrapes any more",
        gauge("fraud_monitor_run_timestamp_seconds", "0+60x10 _x90", task="drift"),
        "48m",
        begins="10m",
    ),
    Case(
        "MonitorStale",
        "a job that never succeeded",
        gauge("fraud_monitor_failures_total", "1+1x60", task="certificates"),
        "10m",
    ),
    Case("LatencyBudgetBurnsFast", "all are slow", answered("0x60 0+100x30", "0+100x90", "p95"), "75m", begins="60m"),
    Case(
        "LatencyBudgetBurnsFast",
        "all are slow, one a minute",
        answered("0x60 0+1x30", "0+1x90", "p95"),
        "75m",
        begins="60m",
    ),
    Case("LatencyBudgetBurnsSlowly", "15 in 100 are slow", answered("0+15x300", "0+100x300", "p95"), "3h"),
    Case("LatencyTailBurnsFast", "15 in 100 are far too slow", answered("0+15x90", "0+100x90", "p99"), "15m"),
    Case("LatencyTailBurnsSlowly", "4 in 100 are far too slow", answered("0+4x300", "0+100x300", "p99"), "3h"),
    Case("ErrorBudgetBurnsFast", "all fail", requests("0x60 0+100x30", "0+100x60 6000x30"), "67m", begins="60m"),
    Case("ErrorBudgetBurnsSlowly", "1 in 100 fails", requests("0+1x300", "0+99x300"), "3h"),
    Case(
        "Degraded", "no history", gauge("fraud_dependency_up", "1x5 0x10", dependency="online_store"), "9m", begins="5m"
    ),
    Case("DegradedLightly", "no registry", gauge("fraud_dependency_up", "0x30", dependency="registry"), "15m"),
    Case(
        "JournalFills",
        "half full",
        {**gauge("fraud_journal_decisions", "300000x9"), **gauge("fraud_journal_limit", "500000x9")},
        "3m",
    ),
    Case(
        "RequestsShed",
        "a tenth",
        {**requests("0x30", "0+100x30"), 'fraud_shed_total{reason="queue_full",instance="a"}': "0+10x30"},
        "10m",
    ),
    Case(
        "NoTraffic",
        "nothing comes any more",
        share("0x1", f"0+100x{DAYS} {100 * DAYS}x24"),
        "26h30m",
        1,  # of the shorter window
        "5m",
        "26h",
    ),
    Case("NoTraffic", "nobody is scraped any more", share("0x1", f"0+100x{DAYS} _x24"), "26h30m", 1, "5m", "26h"),
    Case("StreamLagGrows", "ten minutes behind", stream("60000x30", "0+6000x30"), "12m"),
    Case("StreamStuck", "none is handled", stream("10x30", "100x30"), "10m"),
    Case(
        "StreamStuck",
        "none was ever handled",
        gauge("fraud_stream_lag_messages", "10x30", topic="labels", partition="0"),
        "10m",
    ),
    Case("DeadLetters", "one", stream("0x30", "0x5 1x25", "dead"), "7m", begins="5m"),
    Case(
        "PoolExhausted",
        "all in use",
        {
            **gauge("fraud_log_connections", "10x20", state="used"),
            **gauge("fraud_log_connections", "10x20", state="limit"),
        },
        "8m",
    ),
    Case("ReplicationLags", "a minute", gauge("fraud_replication_lag_seconds", "60x20", replica="b"), "8m"),
    Case(
        "ReplicationLags",
        "a replica that is gone",
        gauge("fraud_replication_lag_seconds", "1e12x20", replica="b"),
        "8m",
    ),
    Case("BackupOld", "two days", gauge("fraud_backup_age_seconds", "172800x30"), "20m"),
    Case("BackupOld", "never", gauge("fraud_backup_age_seconds", "1e12x30"), "20m"),
    Case(
        "CertificateExpires",
        "in a day",
        gauge("fraud_certificate_expiry_timestamp_seconds", "86400x120", file="ca"),
        "90m",
    ),
    Case("ApiKeyExpires", "in a day", gauge("fraud_api_key_expiry_timestamp_seconds", "86400x120", key="shop"), "90m"),
    Case(
        "FilesExhausted",
        "nearly all",
        {**gauge("process_open_fds", "900x20"), **gauge("process_max_fds", "1000x20")},
        "8m",
    ),
]

QUIET = [
    Case("FraudRateHigh", "as ever", STEADY, "27h", 0, "15m"),
    Case(
        "FraudRateHigh",
        "a process that starts anew",
        share(f"0+1x{DAY} 0+1x16", f"0+99x{DAY} 0+99x16"),
        "27h",
        0,
        "15m",
    ),
    Case(
        "FraudRateHigh",
        "three frauds among little traffic",
        share(f"0x{DAY} 0+1x3 3x12", f"0+1x{DAY + 16}"),
        "27h",
        0,
        "15m",
    ),
    Case("FraudRateHigh", "no baseline yet", share("0+50x24", "0+50x24"), "2h", 0, "15m"),
    Case("FraudRateLow", "as ever", STEADY, "27h", 0, "15m"),
    Case(
        "FraudRateLow",
        "no flagged transaction in an hour of little traffic",
        share(f"0+0.01x{DAY + 16}", f"0+1x{DAY + 16}"),
        "27h",
        0,
        "15m",
    ),
    Case(
        "DetectionRateFalls",
        "a wide interval",
        {**gauge("fraud_detection_rate", f"{MONTH} 0.5x48"), **gauge("fraud_detection_rate_high", "0.9x748")},
        "740h",
        0,
        "1h",
    ),
    Case(
        "FeatureMissing",
        "not more than chance",
        {
            **gauge("fraud_drift_missing_change", "0.2x30", feature="amount"),
            **gauge("fraud_drift_significant", "0x30", feature="amount"),
        },
        "20m",
        0,
    ),
    Case(
        "FeatureDrifts",
        "it is missing: another alert says so",
        {
            **gauge("fraud_drift_missing_change", "0.2x60", feature="amount"),
            **gauge("fraud_drift_significant", "1x60", feature="amount"),
        },
        "45m",
        0,
    ),
    Case("ScoreDrifts", "for a moment", gauge("fraud_drift_score_significant", "1x10 0x60"), "45m", 0),
    Case("NewCategories", "a few", gauge("fraud_drift_new_category_share", "0.001x60", feature="country"), "45m", 0),
    Case(
        "TransactionsRejected",
        "three of three at night",
        {**share("0x60", "0x60"), 'fraud_rejected_total{reason="invalid",instance="a"}': "0x20 0+1x3 3x40"},
        "40m",
        0,
    ),
    Case(
        "TransactionsRejected",
        "one in a hundred",
        {**share("0+1x60", "0+99x60"), 'fraud_rejected_total{reason="invalid",instance="a"}': "0+1x60"},
        "30m",
        0,
    ),
    Case("EventsLate", "without traffic", {**share("0x60", "0x60"), "fraud_late_total": "0x60"}, "40m", 0),
    Case(
        "ClockJumps",
        "as ever",
        {**gauge("fraud_stream_event_delay_seconds", "2x30"), **stream("0x30", "0+10x30")},
        "20m",
        0,
    ),
    Case(
        "ClockJumps",
        "one event of the future, the last one before the night",
        {**gauge("fraud_stream_event_delay_seconds", "-600x30"), **stream("0x30", "100x30")},
        "20m",
        0,
    ),
    Case("ClockJumps", "a monitor that is on time", gauge("fraud_monitor_run_timestamp_seconds", "0+60x30"), "20m", 0),
    Case(
        "LabelsStop",
        "few were expected",
        {**gauge("fraud_labels_expected", "3x60"), **gauge("fraud_label_age_seconds", "90000+60x60")},
        "40m",
        0,
    ),
    Case("LabelsLate", "as ever", gauge("fraud_label_delay_seconds", "86400x748", quantile="0.5"), "740h", 0, "1h"),
    Case(
        "ModelFails",
        "once",
        {**share("0+1x30", "0x30"), 'fraud_degraded_total{reason="model",instance="a"}': "0x5 1x25"},
        "10m",
        0,
    ),
    Case(
        "ModelFails",
        "it does not",
        {**share("0+1x30", "0+99x30"), 'fraud_degraded_total{reason="registry"}': "0+9x30"},
        "10m",
        0,
    ),
    Case("CanaryBreached", "none", gauge("fraud_rollout_breached", "0x10"), "7m", 0),
    Case("JudgeLags", "after a restart", gauge("fraud_rollout_judge_lag_seconds", "120x5 0x20"), "15m", 0),
    Case(
        "ModelRefused",
        "a swap that went well",
        gauge("fraud_model_swaps_total", "0x5 1x20", outcome="swapped"),
        "8m",
        0,
    ),
    Case(
        "ModelOld",
        "a bundle of the first hour",
        gauge("fraud_bundle_trained_timestamp_seconds", "3600x2000", version="1"),
        "300h",
        0,
        "1h",
    ),
    Case("ServiceDown", "a restart", up("fraudml-service", "1x5 0x1 1x10"), "7m", 0),
    Case("ServiceDown", "one of two", {**up("fraudml-service", "0x20"), **others("1x20")}, "10m", 0),
    Case("ReplicaDown", "the only one: another alert says so", up("fraudml-service", "0x20"), "10m", 0),
    Case("ReplicaDown", "a restart", {**up("fraudml-service", "1x5 0x3 1x20"), **others("1x20")}, "12m", 0),
    Case("WorkerDown", "a restart", up("fraudml-worker", "1x5 0x1 1x10"), "7m", 0),
    Case(
        "MonitorStale",
        "it ran just now",
        gauge("fraud_monitor_run_timestamp_seconds", "0+60x60", task="drift"),
        "45m",
        0,
    ),
    Case("LatencyBudgetBurnsFast", "5 in 100 are slow", answered("0+5x90", "0+100x90", "p95"), "75m", 0),
    Case(
        "LatencyBudgetBurnsFast",
        "five requests, all slow",
        answered("0x60 0+1x5 5x25", "0x60 0+1x5 5x25", "p95"),
        "66m",
        0,
    ),
    Case(
        "LatencyBudgetBurnsFast", "a minute that is over", answered("0x60 0+100x2 200x30", "0+100x92", "p95"), "75m", 0
    ),
    Case("LatencyBudgetBurnsSlowly", "5 in 100 are slow", answered("0+5x300", "0+100x300", "p95"), "3h", 0),
    Case("LatencyTailBurnsFast", "1 in 100", answered("0+1x90", "0+100x90", "p99"), "30m", 0),
    Case("LatencyTailBurnsSlowly", "1 in 100", answered("0+1x300", "0+100x300", "p99"), "3h", 0),
    Case("ErrorBudgetBurnsFast", "none fails", requests("0x90", "0+100x90"), "67m", 0),
    Case("ErrorBudgetBurnsFast", "probes of a service that is not ready yet", probes("0+6x90"), "67m", 0),
    Case("ErrorBudgetBurnsFast", "a process that starts anew", requests("500x60 0x30", "0+100x60 0+100x30"), "67m", 0),
    Case("ErrorBudgetBurnsSlowly", "1 in 10,000", requests("0+0.01x300", "0+99x300"), "3h", 0),
    Case(
        "Degraded",
        "a restart of Redis",
        gauge("fraud_dependency_up", "1x5 0x1 1x10", dependency="online_store"),
        "7m",
        0,
    ),
    Case("DegradedLightly", "for a minute", gauge("fraud_dependency_up", "0x2 1x30", dependency="registry"), "15m", 0),
    Case(
        "JournalFills",
        "a few",
        {**gauge("fraud_journal_decisions", "300x9"), **gauge("fraud_journal_limit", "500000x9")},
        "3m",
        0,
    ),
    Case(
        "RequestsShed",
        "two of twenty",
        {**requests("0x30", "0+1x30"), 'fraud_shed_total{reason="queue_full",instance="a"}': "0x5 0+1x2 2x30"},
        "9m",
        0,
    ),
    Case(
        "RequestsShed",
        "none",
        {**requests("0x30", "0+100x30"), 'fraud_shed_total{reason="deadline"}': "0x30"},
        "10m",
        0,
    ),
    Case("NoTraffic", "as ever", share("0x1", f"0+100x{DAYS + 24}"), "27h", 0, "5m"),
    Case(
        "NoTraffic",
        "an hour that is quiet every day",
        share("0x1", f"0+0.1x{DAYS + 24}"),
        "27h",
        0,
        "5m",
    ),
    Case("NoTraffic", "no past", share("0x1", "0x24"), "2h", 0, "5m"),
    Case("StreamLagGrows", "a second behind", stream("2000x30", "0+120000x30"), "12m", 0),
    Case("StreamStuck", "messages come and go", stream("10x30", "0+100x30"), "10m", 0),
    Case("StreamStuck", "an empty topic", stream("0x30", "100x30"), "10m", 0),
    Case("DeadLetters", "none", stream("0x30", "0+100x30"), "7m", 0),
    Case(
        "PoolExhausted",
        "half in use",
        {
            **gauge("fraud_log_connections", "5x20", state="used"),
            **gauge("fraud_log_connections", "10x20", state="limit"),
        },
        "8m",
        0,
    ),
    Case("ReplicationLags", "a second", gauge("fraud_replication_lag_seconds", "1x20", replica="b"), "8m", 0),
    Case("BackupOld", "of this night", gauge("fraud_backup_age_seconds", "30000x30"), "20m", 0),
    Case(
        "CertificateExpires",
        "in a year",
        gauge("fraud_certificate_expiry_timestamp_seconds", "31536000x120", file="ca"),
        "90m",
        0,
    ),
    Case(
        "ApiKeyExpires",
        "in a year",
        gauge("fraud_api_key_expiry_timestamp_seconds", "31536000x120", key="shop"),
        "90m",
        0,
    ),
    Case(
        "FilesExhausted",
        "half",
        {**gauge("process_open_fds", "500x20"), **gauge("process_max_fds", "1000x20")},
        "8m",
        0,
    ),
]
