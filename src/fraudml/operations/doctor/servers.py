"""Facts about servers, judged: what is too old, too slow, refused, or set so that data can be lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fraudml.decisions.servers import ServerFacts, Trouble
from fraudml.errors import BundleError, ModelServerError, NotFoundError, RegistryError
from fraudml.operations.doctor.findings import Finding, Status

OLDEST = {"PostgreSQL": (13,), "Redis": (6, 2), "Valkey": (7, 2)}
SLOW_MS = {"PostgreSQL": 20.0, "Redis": 5.0, "Valkey": 5.0}  # a round trip; tier 3 answers within 20 ms
SLOW_MODEL_SERVER_MS = 20.0
SKEW_MS = 50.0  # between processes events are ordered by their clocks
FULL = 0.8  # of memory, connections


class Tables(Protocol):
    """The revision of a database's tables, ``None`` for none, and that of this version of fraudml."""

    @property
    def found(self) -> str | None:
        """What is there."""
        ...

    @property
    def current(self) -> str:
        """What should be."""
        ...


def judge(check: str, facts: ServerFacts | Trouble) -> Iterator[Finding]:
    """What holds for every server, then what only its product has."""
    if isinstance(facts, Trouble):
        yield Finding(check, Status.failure, facts.why, facts.do)
        return
    yield Finding(check, Status.ok, f"{facts.product} {facts.version}, {facts.place}")
    oldest = OLDEST.get(facts.product)
    if oldest and _numbers(facts.version) < oldest:
        least = ".".join(map(str, oldest))
        yield Finding(
            check,
            Status.failure,
            f"{facts.product} {facts.version} is older than {least}, the oldest that is supported",
            f"upgrade to {facts.product} {least} or later",
        )
    yield from _latency(check, facts)
    yield from _clock(check, facts)
    for trial in facts.trials:
        if trial.problem is not None and trial.needed:
            text = f"fraudml may not {trial.what}: {trial.problem}"
            yield Finding(check, Status.failure, text, _grant(facts.product))
        elif trial.problem is not None:
            text = f"fraudml may not {trial.what} ({trial.problem}); services need not"
            yield Finding(check, Status.note, text, "upgrades need a role that may")
    if works := [trial.what for trial in facts.trials if trial.problem is None]:
        yield Finding(check, Status.ok, f"fraudml may {_listed(works)}")
    if facts.product == "PostgreSQL":
        yield from _postgres(check, facts)
    elif facts.product in ("Redis", "Valkey"):
        yield from _redis(check, facts)


def judge_log(
    facts: ServerFacts | Trouble | None,
    tables: Callable[[], Tables],
    differs: Callable[[], Sequence[str]] = lambda: (),
) -> Iterator[Finding]:
    """The decision log; ``None`` is a file that is not there yet. ``tables``, and ``differs`` (what of TimescaleDB is
    not as the settings say), are only asked where the log can be."""
    check = "decision log"
    if facts is None:
        yield Finding(check, Status.note, "it is a SQLite file that is not there yet", "the first start makes it")
        return
    yield from judge(check, facts)
    if isinstance(facts, Trouble):
        return
    is_file = facts.product == "SQLite"
    if is_file and facts.details.get("others_may_read") == "True":
        yield Finding(check, Status.warning, "others may read it, and what is in it", f"chmod 600 {facts.place}")
    yield from judge_tables(check, tables(), by_itself=is_file)
    if "timescaledb" in facts.details:
        for text in differs():
            yield Finding(check, Status.warning, f"TimescaleDB: {text}", "fraudml db upgrade")
    elif not is_file:
        text = "TimescaleDB is not installed: tier 3 has it for compression, retention and figures per hour"
        yield Finding(check, Status.note, text, "CREATE EXTENSION timescaledb, then fraudml db upgrade")


def judge_redis(facts: ServerFacts | Trouble | None, lost: Callable[[], bool | None]) -> Iterator[Finding]:
    """Redis; ``None`` where there is none. ``lost``: whether history has to be loaded, ``None`` where that is not
    known; only asked where Redis can be."""
    check = "Redis"
    if facts is None:
        yield Finding(check, Status.ok, "not used: features, cache and limits are in each process")
        return
    yield from judge(check, facts)
    if isinstance(facts, Trouble):
        return
    missing = lost()
    if missing:
        do = "the first service loads it; to do that before: fraudml features materialize"
        yield Finding(check, Status.note, "history has not been loaded for the features of this project", do)
    elif missing is not None:
        yield Finding(check, Status.ok, "all history is loaded for the features of this project")


def judge_kafka(facts: ServerFacts | Trouble | None) -> Iterator[Finding]:
    """Kafka; ``None`` where there is none."""
    check = "Kafka"
    if facts is None:
        yield Finding(check, Status.ok, "not used: transactions come over HTTP")
        return
    yield from judge(check, facts)
    if isinstance(facts, Trouble):
        return
    if missing := facts.details.get("missing_topics"):
        yield Finding(check, Status.failure, f"it has no topics {missing}", "fraudml stream init")
    else:
        yield Finding(check, Status.ok, "all topics are there")


def judge_registry(facts: ServerFacts | Trouble | None, is_set: bool) -> Iterator[Finding]:
    """``is_set``: whether the settings name a registry."""
    check = "registry"
    if facts is None and is_set:
        text = "it is a store that only MLflow itself can look into: not checked"
        yield Finding(check, Status.note, text, "fraudml models list asks it")
    elif facts is None:
        yield Finding(check, Status.note, "there is no model yet", "fraudml train makes one")
    else:
        yield from judge(check, facts)
        if isinstance(facts, ServerFacts):
            if champion := facts.details.get("champion"):
                yield Finding(check, Status.ok, f"version {champion} is the champion")
            else:
                text = "it has no champion: fraudml serve does not start"
                yield Finding(check, Status.warning, text, "fraudml train, or fraudml models promote")


def judge_model_server(facts: ServerFacts | Trouble | None, compare: Callable[[], None] | None) -> Iterator[Finding]:
    """The model server; ``None`` where there is none. ``compare`` raises ``ModelServerError`` unless it gives the
    champion's reference scores; it is only called where the server can be asked."""
    check = "model server"
    if facts is None:
        yield Finding(check, Status.ok, "not used: each process scores by itself")
        return
    yield from judge(check, facts)
    if isinstance(facts, Trouble):
        return
    text = f"a round trip takes {facts.latency_ms:.2f} ms"
    if facts.latency_ms > SLOW_MODEL_SERVER_MS:
        do = "every batch of decisions waits for it: move it closer, or look at its load"
        yield Finding(check, Status.warning, f"{text}, more than {SLOW_MODEL_SERVER_MS:g}", do)
    else:
        yield Finding(check, Status.ok, text)
    if compare is None:
        yield Finding(check, Status.note, "its scores were not compared: there is no project file here", "--project")
        return
    try:
        compare()
    except ModelServerError as error:
        why, _, do = str(error).partition(": ")
        yield Finding(check, Status.failure, why, do or "until then the local copy scores")
    except (NotFoundError, RegistryError, BundleError) as error:
        yield Finding(check, Status.note, f"its scores were not compared with the champion's: {error}")
    else:
        yield Finding(check, Status.ok, "it gives the champion's reference scores")


def judge_tables(check: str, tables: Tables, *, by_itself: bool) -> Iterator[Finding]:
    """Whether a database has the tables of this version. ``by_itself``: the next start upgrades them."""
    if tables.found == tables.current:
        yield Finding(check, Status.ok, f"its tables are at revision {tables.current}, that of this version")
    elif tables.found is None:
        do = "the first start makes them" if by_itself else "the first start makes them, or: fraudml db upgrade"
        yield Finding(check, Status.note, "it has no tables yet", do)
    elif by_itself:
        text = f"its tables are at revision {tables.found}; the next start brings them to {tables.current}"
        yield Finding(check, Status.note, text)
    else:
        text = f"its tables are at revision {tables.found}, this version needs {tables.current}"
        yield Finding(check, Status.failure, text, "run: fraudml db upgrade")


def _latency(check: str, facts: ServerFacts) -> Iterator[Finding]:
    slow = SLOW_MS.get(facts.product)
    if slow is None:
        return
    text = f"a round trip takes {facts.latency_ms:.2f} ms"
    if facts.latency_ms > slow:
        do = "every batch of decisions waits for it: move it closer, or look at its load"
        yield Finding(check, Status.warning, f"{text}, more than {slow:g}", do)
    else:
        yield Finding(check, Status.ok, text)


def _clock(check: str, facts: ServerFacts) -> Iterator[Finding]:
    if facts.ahead_ms is None:
        return
    off = abs(facts.ahead_ms)
    text = f"its clock is {off:.0f} ms {'ahead of' if facts.ahead_ms > 0 else 'behind'} this machine's"
    if off - facts.unsure_ms > SKEW_MS:
        do = "keep both in step (NTP): between processes the order of events is that of clocks"
        yield Finding(check, Status.warning, text, do)
    else:
        yield Finding(check, Status.ok, text if off >= 1 else "its clock is that of this machine, to the millisecond")


def _postgres(check: str, facts: ServerFacts) -> Iterator[Finding]:
    details = facts.details
    if details.get("in_recovery") == "on":
        yield Finding(check, Status.failure, "this is a standby, which takes no writes", "name the primary in the URL")
    elif details.get("default_transaction_read_only") == "on":
        do = "ALTER DATABASE ... or ALTER ROLE ... SET default_transaction_read_only = off"
        yield Finding(check, Status.failure, "transactions are read-only by default", do)
    encoding = details.get("server_encoding", "UTF8")
    if encoding != "UTF8":
        do = "create a database with ENCODING 'UTF8'"
        yield Finding(check, Status.failure, f"it holds {encoding} and not every text", do)
    if details.get("fsync") == "off":
        text = "fsync is off: a crash of its machine can destroy the database"
        yield Finding(check, Status.warning, text, "set fsync = on in postgresql.conf")
    if "connections" in details and "max_connections" in details:
        used, most = int(details["connections"]), int(details["max_connections"])
        text = f"{used} of {most} connections are in use"
        if used > FULL * most:
            do = "raise max_connections, or lower FRAUDML_DB_POOL_SIZE of the services"
            yield Finding(check, Status.warning, text, do)
        else:
            yield Finding(check, Status.ok, text)
    if "timescaledb" in details:
        yield Finding(check, Status.ok, f"TimescaleDB {details['timescaledb']} is installed")


def _redis(check: str, facts: ServerFacts) -> Iterator[Finding]:
    details = facts.details
    if details.get("role", "master") != "master":
        do = "name the primary in FRAUDML_REDIS_URL"
        yield Finding(check, Status.failure, "this is a replica, which takes no writes", do)
    if "cluster_state" in details:
        state = details["cluster_state"]
        status = Status.ok if state == "ok" else Status.failure
        do = "" if state == "ok" else "look at CLUSTER INFO and CLUSTER NODES: some slots have no node"
        yield Finding(check, status, f"the cluster is {state}, with {details.get('nodes', '?')} primaries", do)
    yield from _redis_memory(check, details)
    yield from _redis_persistence(check, details)


def _redis_memory(check: str, details: dict[str, str]) -> Iterator[Finding]:
    policy, most, used = (details.get(name) for name in ("maxmemory_policy", "maxmemory", "used_memory"))
    if policy is not None and policy != "noeviction":
        text = f"maxmemory-policy is {policy}: it would forget online state, so services refuse it"
        yield Finding(check, Status.failure, text, "CONFIG SET maxmemory-policy noeviction, and in its configuration")
    if int(details.get("evicted_keys", "0")) > 0:
        text = f"it has evicted {details['evicted_keys']} keys since its start"
        do = "give it more memory; if features are in it, empty it, so that they are built anew"
        yield Finding(check, Status.warning, text, do)
    if most is None or used is None:
        return
    if int(most) == 0:
        text = f"it uses {_mib(used)} and has no limit (maxmemory)"
        yield Finding(check, Status.note, text, "set maxmemory below what the machine has")
    elif int(used) > FULL * int(most):
        text = f"it uses {_mib(used)} of {_mib(most)}"
        yield Finding(check, Status.warning, text, "raise maxmemory: what it does not take is missing in features")
    else:
        yield Finding(check, Status.ok, f"it uses {_mib(used)} of {_mib(most)}")


def _redis_persistence(check: str, details: dict[str, str]) -> Iterator[Finding]:
    append, save = details.get("aof_enabled"), details.get("save")
    if append is None:
        return
    if append == "1":
        yield Finding(check, Status.ok, "it keeps an append-only file")
    elif save:
        text = "it saves snapshots: what it took since the last one is gone after a crash, and features are rebuilt"
        yield Finding(check, Status.note, text, "appendonly yes makes a restart quicker")
    elif save is not None:
        text = "it keeps nothing on disk: after a restart it is empty, and features are rebuilt from the log"
        yield Finding(check, Status.note, text, "appendonly yes spares the rebuilding")
    if details.get("rdb_last_bgsave_status", "ok") != "ok" or details.get("aof_last_write_status", "ok") != "ok":
        yield Finding(check, Status.warning, "it could not save its data the last time", "look at its log and its disk")


def _grant(product: str) -> str:
    if product == "PostgreSQL":
        return "make the role the owner of the database, or grant it what is missing"
    if product in ("Redis", "Valkey"):
        return "ACL SETUSER ... ~fraudml:* +@all -@dangerous +info, or what is missing of it"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version.

    >>> _numbers("15.4 (Debian 15.4-1)"), _numbers("7.2.4"), _numbers("17beta1")
    ((15, 4), (7, 2, 4), (17,))
    """
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _listed(words: list[str]) -> str:
    """
    >>> _listed(["read"]), _listed(["read", "write", "run scripts"])
    ('read', 'read, write and run scripts')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _mib(size: str) -> str:
    return f"{int(size) / 2**20:,.1f} MiB"
