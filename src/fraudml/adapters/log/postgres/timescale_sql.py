"""What :mod:`timescale` asks and makes, as text. ``{x}`` is the quoted schema of the extension, ``{s}`` that of the
tables. TimescaleDB 2.18 or newer."""

from __future__ import annotations

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
CHANGES_CHUNK_US = 7 * DAY_US  # of label_changes: fewer rows than decisions
PIECES = {"transactions": DAY_US, "decisions": DAY_US, "label_changes": CHANGES_CHUNK_US}
# How rows lie in the columnstore: models and arms apart, since dashboards ask by them. Ordered by the primary key, a
# look-up of one transaction opens one batch of a thousand rows.
ORDER = {
    "transactions": ("", "event_time_us, transaction_id"),
    "decisions": ("model_version, arm", "event_time_us, transaction_id"),
    "label_changes": ("model_version, arm", "event_time_us, transaction_id, nth"),
}
KEPT = ("hourly_decisions_kept", "hourly_fraud_kept")  # the continuous aggregates behind the views
JOB = "fraudml_retain"

EXTENSION = (
    "SELECT e.extversion, quote_ident(n.nspname), current_setting('timescaledb.license', true) "
    "FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb'"
)
AVAILABLE = "SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'"
HYPERTABLES = (
    "SELECT hypertable_name, compression_enabled FROM timescaledb_information.hypertables "
    "WHERE hypertable_schema = current_schema()"
)
AGGREGATES = "SELECT view_name FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema()"
# Also of the hypertable behind a continuous aggregate: its policy names that one.
JOBS = """
SELECT j.job_id, j.proc_name, coalesce(a.view_name, j.hypertable_name), j.config, j.scheduled
FROM timescaledb_information.jobs AS j
LEFT JOIN timescaledb_information.continuous_aggregates AS a
    ON a.materialization_hypertable_name = j.hypertable_name OR a.view_name = j.hypertable_name
WHERE j.hypertable_schema = current_schema() OR a.view_schema = current_schema()
    OR (j.proc_schema = current_schema() AND j.proc_name = 'fraudml_retain')
"""
RUNS = (
    "SELECT j.proc_name, s.last_run_status FROM timescaledb_information.jobs AS j "
    "JOIN timescaledb_information.job_stats AS s USING (job_id) WHERE s.last_run_status = 'Failed'"
)

NOW = """
CREATE OR REPLACE FUNCTION {s}.fraudml_now_us() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT (extract(epoch FROM now()) * 1000000)::bigint $$
"""
FILL = """
UPDATE decisions AS d SET amount_minor = t.amount_minor FROM transactions AS t
WHERE t.event_time_us = d.event_time_us AND t.transaction_id = d.transaction_id
    AND d.amount_minor IS NULL AND t.amount_minor IS NOT NULL
    AND d.event_time_us >= %(since)s AND t.event_time_us >= %(since)s
"""
CUT = """
SELECT {x}.create_hypertable(%(table)s::regclass, {x}.by_range('event_time_us', %(piece)s::bigint),
    create_default_indexes => false, migrate_data => true, if_not_exists => true)
"""
CLOCK = "SELECT {x}.set_integer_now_func(%(table)s::regclass, '{s}.fraudml_now_us', replace_if_exists => true)"
COLUMNS = (
    "ALTER TABLE {s}.{table} SET (timescaledb.enable_columnstore = true, "
    "timescaledb.segmentby = '{segment}', timescaledb.orderby = '{order}')"
)
COMPRESS = "CALL {x}.add_columnstore_policy(%(table)s::regclass, after => %(after)s::bigint)"
NOT_COMPRESS = "CALL {x}.remove_columnstore_policy(%(table)s::regclass, if_exists => true)"

# A report is a change of the figures of its transaction's hour, so a corrected label takes back what it said before. A
# trigger writes it, in the transaction of the report: so processes of the release before are counted, too, and a role
# that may only add labels needs no other right.
CHANGES = """
CREATE TABLE {s}.label_changes (
    event_time_us bigint NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    nth integer NOT NULL,
    model_version text NOT NULL,
    arm text NOT NULL,
    action text NOT NULL,
    amount_minor bigint,
    labelled smallint NOT NULL,
    frauds smallint NOT NULL,
    PRIMARY KEY (event_time_us, transaction_id, nth)
)
"""
_CHANGED = """
INSERT INTO label_changes
SELECT i.event_time_us, l.transaction_id, l.nth, d.model_version, d.arm, d.action, d.amount_minor,
    (l.nth = 1)::int, l.is_fraud::int - coalesce(before.is_fraud::int, 0)
FROM {reports} AS l JOIN transaction_ids AS i USING (transaction_id)
JOIN decisions AS d ON d.event_time_us = i.event_time_us AND d.transaction_id = i.transaction_id
LEFT JOIN labels AS before ON before.transaction_id = l.transaction_id AND before.nth = l.nth - 1
"""
LABELS_STAND = "LOCK TABLE labels IN SHARE ROW EXCLUSIVE MODE"
COUNTED = _CHANGED.format(reports="labels")
# The bounds let the server open no other pieces.
_BETWEEN = "WHERE d.event_time_us BETWEEN first AND last"
COUNT = f"""
CREATE OR REPLACE FUNCTION {{s}}.fraudml_count_labels() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {{s}}, pg_temp AS $$
DECLARE first bigint; last bigint;
BEGIN
    SELECT min(i.event_time_us), max(i.event_time_us) INTO first, last
    FROM added JOIN transaction_ids AS i USING (transaction_id);
    {_CHANGED.format(reports="added")} {_BETWEEN};
    RETURN NULL;
END $$
"""  # noqa: S608 - our own names
COUNTING = """
CREATE OR REPLACE TRIGGER fraudml_count_labels AFTER INSERT ON {s}.labels REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION {s}.fraudml_count_labels()
"""

_LATENCY = "(timings ->> 'state_us')::bigint + (timings ->> 'model_us')::bigint"
_KEPT_WITH = "WITH (timescaledb.continuous, timescaledb.materialized_only = false)"
AGGREGATE = {
    "hourly_decisions_kept": f"""
CREATE MATERIALIZED VIEW {{s}}.hourly_decisions_kept {_KEPT_WITH} AS
SELECT {{x}}.time_bucket({HOUR_US}::bigint, event_time_us) AS hour_us, model_version, arm,
    count(*) AS decisions,
    count(*) FILTER (WHERE action = 'approve') AS approved,
    count(*) FILTER (WHERE action = 'review') AS reviewed,
    count(*) FILTER (WHERE action = 'decline') AS declined,
    count(*) FILTER (WHERE degraded <> '[]') AS degraded,
    coalesce(sum(amount_minor), 0) AS amount_minor,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY {_LATENCY}) AS latency_p50_us,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY {_LATENCY}) AS latency_p95_us,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY {_LATENCY}) AS latency_p99_us
FROM {{s}}.decisions GROUP BY 1, 2, 3 WITH NO DATA
""",  # noqa: S608 - our own names
    "hourly_fraud_kept": f"""
CREATE MATERIALIZED VIEW {{s}}.hourly_fraud_kept {_KEPT_WITH} AS
SELECT {{x}}.time_bucket({HOUR_US}::bigint, event_time_us) AS hour_us, model_version, arm,
    sum(labelled) AS labelled,
    sum(frauds) AS frauds,
    coalesce(sum(frauds) FILTER (WHERE action = 'approve'), 0) AS approved_frauds,
    coalesce(sum(frauds * amount_minor), 0) AS fraud_amount_minor
FROM {{s}}.label_changes GROUP BY 1, 2, 3 WITH NO DATA
""",  # noqa: S608 - our own names
}
_HOUR = "to_timestamp((hour_us / 1000000)::double precision) AS hour"
# The columns, and their types, of the views that revision 0005 made: they are replaced, so what was granted stays.
VIEWS = (
    f"""
CREATE OR REPLACE VIEW {{s}}.hourly_decisions AS
SELECT {_HOUR}, model_version, arm, decisions, approved, reviewed, declined, degraded, amount_minor,
    latency_p50_us, latency_p95_us, latency_p99_us
FROM {{s}}.hourly_decisions_kept
""",  # noqa: S608 - our own names
    f"""
CREATE OR REPLACE VIEW {{s}}.hourly_fraud AS
SELECT {_HOUR}, model_version, arm, labelled::bigint AS labelled, frauds::bigint AS frauds,
    approved_frauds::bigint AS approved_frauds, fraud_amount_minor::numeric AS fraud_amount_minor
FROM {{s}}.hourly_fraud_kept
""",  # noqa: S608 - our own names
)
REFRESH = """
SELECT {x}.add_continuous_aggregate_policy(%(view)s::regclass, start_offset => %(start)s::bigint,
    end_offset => %(end)s::bigint, schedule_interval => interval '10 minutes')
"""
NOT_REFRESH = "SELECT {x}.remove_continuous_aggregate_policy(%(view)s::regclass, if_exists => true)"

# Ids first: whoever finds an id finds its decision. Pieces end at midnight, so the limit does, too.
RETAIN = """
CREATE OR REPLACE PROCEDURE {s}.fraudml_retain(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    before bigint := ({s}.fraudml_now_us() - (config ->> 'retain_us')::bigint) / %(day)s * %(day)s;
    taken bigint;
BEGIN
    LOOP
        WITH old AS (SELECT transaction_id, arrival FROM {s}.transaction_ids WHERE event_time_us < before LIMIT 10000),
        gone AS (DELETE FROM {s}.labels AS l USING old WHERE l.transaction_id = old.transaction_id),
        shadows AS (DELETE FROM {s}.shadow_scores AS s USING old WHERE s.arrival = old.arrival)
        DELETE FROM {s}.transaction_ids AS i USING old WHERE i.transaction_id = old.transaction_id;
        GET DIAGNOSTICS taken = ROW_COUNT;
        COMMIT;
        EXIT WHEN taken = 0;
    END LOOP;
    UPDATE {s}.chain SET members = NULL WHERE until_us < before AND members IS NOT NULL AND kind <> 'start';
    PERFORM {x}.drop_chunks('{s}.label_changes'::regclass, older_than => before);
    PERFORM {x}.drop_chunks('{s}.decisions'::regclass, older_than => before);
    PERFORM {x}.drop_chunks('{s}.transactions'::regclass, older_than => before);
END $$
""".replace("%(day)s", str(DAY_US))
RETAINING = (
    "SELECT {x}.add_job('{s}.fraudml_retain'::regproc, interval '1 day', "
    "config => jsonb_build_object('retain_us', %(retain)s::bigint))"
)
NOT_RETAINING = "SELECT {x}.delete_job(%(job)s)"
