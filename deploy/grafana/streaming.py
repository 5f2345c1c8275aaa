"""Streaming: do workers keep up with Kafka, and is anything lost?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import GREEN, RED, Query, Text, board, heat, lines, number, rising
from deploy.grafana.promql import increase, none_is_zero, of, quantile, rate, total

DEAD = 'outcome="dead"'

GLANCE = [
    number(
        Text("Messages that wait", "Growing: add workers, up to the number of partitions.", "StreamLagGrows"),
        "short",
        Query(total("fraud_stream_lag_messages")),
        span=6,
    ),
    number(
        Text("From publication to decision, p95", "Far above usual: see lag and waiting.", "StreamLagGrows"),
        "s",
        Query(quantile(0.95, "fraud_stream_delay_seconds")),
        span=6,
    ),
    number(
        Text(
            "Do workers wait for a dependency?",
            "They read nothing until it is back, and lose nothing. Bring it back.",
            "StreamStuck",
        ),
        "none",
        Query(f"max({of('fraud_stream_waiting')})"),
        span=6,
        steps=rising(1),
        words={"0": ("no", GREEN), "1": ("yes", RED)},
    ),
    number(
        Text("Dead letters in 24 hours", "Read them with fraudml dlq, fix the sender, send again.", "DeadLetters"),
        "short",
        Query(none_is_zero(increase("fraud_stream_messages_total", DEAD, over="24h"))),
        span=6,
        steps=rising(1),
    ),
]

FLOW = [
    lines(
        Text("Messages handled", "None while messages wait: a worker is stuck.", "StreamStuck"),
        "short",
        Query(rate("fraud_stream_messages_total", by="topic, outcome"), "{{topic}} {{outcome}} a second"),
        span=12,
        stacked=True,
    ),
    lines(
        Text("Lag by partition", "One partition alone: a hot key. All: too few workers.", "StreamLagGrows"),
        "short",
        Query(
            f"max by (topic, partition) ({of('fraud_stream_lag_messages')})",
            "{{topic}} {{partition}}",
        ),
        span=12,
    ),
    lines(
        Text(
            "From publication to decision",
            "Growing with lag: too few workers. Without: a slow store.",
            "StreamLagGrows",
        ),
        "s",
        Query(quantile(0.5, "fraud_stream_delay_seconds"), "p50"),
        Query(quantile(0.95, "fraud_stream_delay_seconds"), "p95"),
        Query(quantile(0.99, "fraud_stream_delay_seconds"), "p99"),
    ),
    heat(
        Text("Delays", "Two bands: some partitions are behind.", "StreamLagGrows"),
        "s",
        Query(rate("fraud_stream_delay_seconds_bucket", by="le"), "{{le}}"),
    ),
    lines(
        Text(
            "Age of the last transaction, by its own time",
            "Far above the delay: the sender is late. Negative: a clock is wrong.",
            "ClockJumps",
        ),
        "s",
        Query(f"max({of('fraud_stream_event_delay_seconds')})", "oldest"),
    ),
]

TROUBLE = [
    lines(
        Text(
            "Batches read again",
            "stream: Kafka failed; store: the decision log failed. Nothing is lost.",
            "StreamStuck",
        ),
        "short",
        Query(rate("fraud_stream_failures_total", by="kind"), "{{kind}} a second"),
    ),
    lines(
        Text(
            "Partitions that came and went", "Again and again: workers die, or are too slow to be kept.", "WorkerDown"
        ),
        "short",
        Query(rate("fraud_stream_rebalances_total", by="what"), "{{what}} a second"),
    ),
    lines(
        Text("Dead letters", "Each is a message that can never be decided as it is.", "DeadLetters"),
        "short",
        Query(
            increase("fraud_stream_messages_total", DEAD, by="topic", over="1h"),
            "{{topic}} in an hour",
        ),
    ),
    lines(
        Text("Waiting for a dependency", "1: messages of the topic are not read.", "StreamStuck"),
        "none",
        Query(f"max by (instance, topic) ({of('fraud_stream_waiting')})", "{{instance}} {{topic}}"),
        span=12,
    ),
    lines(
        Text("Memory of workers", "Growing for days without more traffic is a defect: report it."),
        "bytes",
        Query('process_resident_memory_bytes{job="fraudml-worker"}', "{{instance}}"),
        span=12,
    ),
]


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "fraudml-streaming",
        "Streaming",
        "Do workers keep up with Kafka, and is anything lost?",
        [("At a glance", GLANCE), ("Flow", FLOW), ("Trouble", TROUBLE)],
    )
