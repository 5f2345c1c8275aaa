"""Capacity and cost: how much more load fits, what is full first, what ends soon, and what a query costs."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import Query, Text, board, falling, heat, lines, number, rising, rows
from deploy.grafana.promql import newest, none_is_zero, of, quantile, rate, share, total

CPU = f"rate({of('process_cpu_seconds_total')}[$__rate_interval])"
USED, LIMIT = 'state="used"', 'state="limit"'
QUERIES_AN_HOUR = rate("fraud_predictions_total", over="1h") + " * 3600"

COST = [
    number(
        Text("Queries a second", "What all processes decide together."),
        "short",
        Query(rate("fraud_predictions_total")),
    ),
    number(
        Text(
            "Cost of 1,000 queries",
            "In the currency of FRAUDML_COST_PER_HOUR, without which there is none. Rising while traffic falls: run "
            "fewer processes.",
        ),
        "short",
        Query(f"1000 * {total('fraud_cost_per_hour')} / ({QUERIES_AN_HOUR} > 0)"),
    ),
    number(
        Text("Cost an hour", "The sum over processes, in the currency of FRAUDML_COST_PER_HOUR."),
        "short",
        Query(total("fraud_cost_per_hour")),
    ),
    number(
        Text("CPU of 1,000 queries", "Rising: a slower model, smaller batches or a store that costs more."),
        "s",
        Query(f"1000 * {rate('process_cpu_seconds_total')} / ({rate('fraud_predictions_total')} > 0)"),
    ),
    number(
        Text("Fullest process", "Share of a core. Above 80 % waiting begins: add a process.", "LatencyBudgetBurnsFast"),
        "percentunit",
        Query(f"max({CPU})"),
        steps=rising(0.7, 0.85),
    ),
    number(
        Text("Processes", "Fewer than you run: one is down.", "ServiceDown"),
        "none",
        Query(f"count({of('fraud_model_info')})"),
        steps=falling(1),
    ),
]

ROOM = [
    lines(
        Text("CPU", "A process uses one core, and a little more for its threads.", "LatencyBudgetBurnsFast"),
        "percentunit",
        Query(CPU, "{{instance}}"),
        limits=(0.7, 0.85),
    ),
    lines(
        Text(
            "Memory",
            "State of entities grows with customers; see docs/concepts/online-state-in-redis.md. One alone: it may be "
            "ended for want of memory.",
            "ReplicaDown",
        ),
        "bytes",
        Query(of("process_resident_memory_bytes"), "{{instance}}"),
    ),
    lines(
        Text("How full is the queue?", "Full: requests are turned away. Add processes.", "RequestsShed"),
        "percentunit",
        Query(f"{of('fraud_queue_requests')} / {of('fraud_queue_limit')}", "{{instance}}"),
        limits=(0.5, 0.9),
    ),
    lines(
        Text("Requests turned away", "queue_full: too much load. deadline: a backend hangs.", "RequestsShed"),
        "short",
        Query(rate("fraud_shed_total", by="reason"), "{{reason}} a second"),
    ),
    lines(
        Text(
            "How full is the journal?",
            "The log is gone. At 100 % decisions are refused: bring it back.",
            "JournalFills",
        ),
        "percentunit",
        Query(f"{of('fraud_journal_decisions')} / {of('fraud_journal_limit')}", "{{instance}}"),
        limits=(0.5, 0.9),
    ),
    lines(
        Text("Open files", "Above 80 % of what the system allows: raise it (ulimit -n).", "FilesExhausted"),
        "percentunit",
        Query(f"{of('process_open_fds')} / {of('process_max_fds')}", "{{instance}}"),
        limits=(0.6, 0.8),
    ),
    lines(
        Text("How many database connections are used?", "All for long: queries are slow.", "PoolExhausted"),
        "percentunit",
        Query(
            f"{of('fraud_log_connections', USED)} / ignoring (state) {of('fraud_log_connections', LIMIT)}",
            "{{instance}}",
        ),
        limits=(0.7, 0.9),
    ),
    lines(
        Text("Prediction cache", "Mostly misses: it costs more than it saves; turn it off."),
        "short",
        Query(rate("fraud_cache_total", by="outcome"), "{{outcome}} a second"),
    ),
    lines(
        Text("Decisions shared between processes", "dropped or error: Redis is slow or gone.", "DegradedLightly"),
        "short",
        Query(rate("fraud_recent_total", by="outcome"), "{{outcome}} a second"),
    ),
]

TIME = [
    lines(
        Text(
            "Where does the time go?",
            "Seconds of each stage, per second of the clock. log: the disk or database; queue: too much load; state: "
            "Redis; model: the model.",
            "LatencyBudgetBurnsSlowly",
        ),
        "percentunit",
        Query(rate("fraud_stage_seconds_sum", by="stage"), "{{stage}}"),
        span=12,
        stacked=True,
    ),
    lines(
        Text("Stages, p99", "The one that grew is the one to look at.", "LatencyTailBurnsSlowly"),
        "s",
        Query(quantile(0.99, "fraud_stage_seconds", by="stage"), "{{stage}}"),
        span=12,
    ),
    heat(
        Text("Latency", "A second band is one slow kind of request, or one slow process.", "LatencyTailBurnsFast"),
        "s",
        Query(rate("fraud_prediction_latency_seconds_bucket", by="le"), "{{le}}"),
        span=12,
    ),
    lines(
        Text(
            "Transactions decided together",
            "Grows with load, and makes each cheaper. At 256 it is full.",
            "RequestsShed",
        ),
        "short",
        Query(share(rate("fraud_batch_transactions_sum"), rate("fraud_batch_transactions_count")), "mean"),
        Query(quantile(0.99, "fraud_batch_transactions"), "p99"),
        span=12,
    ),
]

ENDS = [
    lines(
        Text(
            "How far are replicas behind?",
            "What a failover now would lose. See its network and disk.",
            "ReplicationLags",
        ),
        "s",
        Query(newest("fraud_replication_lag_seconds", by="replica"), "{{replica}}"),
        span=6,
        limits=(10, 30),
    ),
    number(
        Text("Age of the last backup", "Older than its interval: run it by hand, read its log.", "BackupOld"),
        "s",
        Query(newest("fraud_backup_age_seconds")),
        span=6,
        steps=rising(26 * 3_600, 50 * 3_600),
    ),
    rows(
        Text("Which certificates end?", "Renew those with less than two weeks.", "CertificateExpires"),
        "s",
        Query(f"{newest('fraud_certificate_expiry_timestamp_seconds', by='file')} - time()"),
        value="left",
        span=6,
    ),
    rows(
        Text("Which API keys end?", "Make a new one and hand it over before the old one ends.", "ApiKeyExpires"),
        "s",
        Query(f"{newest('fraud_api_key_expiry_timestamp_seconds', by='key')} - time()"),
        value="left",
        span=6,
    ),
    lines(
        Text(
            "Cost of 1,000 queries, over time",
            "In the currency of FRAUDML_COST_PER_HOUR. High at night: scale down with traffic.",
        ),
        "short",
        Query(f"1000 * {total('fraud_cost_per_hour')} / ({QUERIES_AN_HOUR} > 0)", "cost"),
        span=12,
    ),
    lines(
        Text(
            "Failures that cost capacity", "Shed and failed requests are paid for and answer nothing.", "RequestsShed"
        ),
        "short",
        Query(none_is_zero(rate("fraud_shed_total")), "turned away a second"),
        Query(none_is_zero(rate("fraud_errors_total")), "failed a second"),
        span=12,
    ),
]


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "fraudml-capacity",
        "Capacity and cost",
        "How much more load fits, what is full first, what ends soon, and what a query costs.",
        [
            ("Cost", COST),
            ("Room", ROOM),
            ("Time", TIME),
            ("What ends, and what it costs", ENDS),
        ],
    )
