"""What a failure of Redis means, and what to do about it."""

from __future__ import annotations

from redis import exceptions

from fraudml.errors import OnlineStoreError

# What the driver raises.
DRIVER = (exceptions.RedisError, exceptions.RedisClusterException, OSError)

# The first word of an error that the server answered -> what it means.
_ANSWERS = {
    "OOM": "its memory is full (maxmemory); give it more, or shorten windows or FRAUDML_LATENESS_S",
    "READONLY": "it is a replica and takes no writes; let FRAUDML_REDIS_URL name the primary, or use ?cluster=true",
    "LOADING": "it still loads its data from disk; it answers when that is done",
    "MASTERDOWN": "it is a replica that lost its primary; see to the primary",
    "NOAUTH": "it wants a password; put it into FRAUDML_REDIS_URL",
    "WRONGPASS": "it refuses the user or password in FRAUDML_REDIS_URL",
    "NOPERM": "its user may not run what is needed: GET, SET, APPEND, PTTL, PEXPIRE, DEL, EVALSHA, EVAL, INFO, SCAN, "
    "XADD, XRANGE",
    "CROSSSLOT": "it is a cluster; add ?cluster=true to FRAUDML_REDIS_URL",
    "MOVED": "it is a cluster; add ?cluster=true to FRAUDML_REDIS_URL",
    "ASK": "it is a cluster; add ?cluster=true to FRAUDML_REDIS_URL",
    "CLUSTERDOWN": "the cluster is not complete; see to the nodes that are down",
    "TRYAGAIN": "the cluster moves these keys to another node; it answers when that is done",
    "MISCONF": "it cannot write its data to disk and so takes no writes; look at its log and its disk",
    "NOREPLICAS": "it has too few replicas (min-replicas-to-write) and so takes no writes; see to the replicas",
    "BUSY": "somebody's script keeps it busy; SCRIPT KILL ends one that has not written yet",
    "WRONGTYPE": "a key of ours holds something else; another program uses the same keys: give it another database",
    "UNKNOWN": "",
}


class NotAsked(exceptions.ConnectionError):
    """A server that failed is left alone for a moment; the text says how it failed."""


def failure(error: Exception) -> OnlineStoreError:
    """The error to raise for one of the driver; never repeats the URL, which may hold a password."""
    raised = OnlineStoreError(f"Redis, which holds online state, failed: {meaning(error)}")
    raised.__cause__ = error
    return raised


def meaning(error: Exception) -> str:
    """What an error of the driver means, and what to do, in words that follow a colon."""
    if isinstance(error, NotAsked):
        return f"it is not asked for a moment; before, {error}"
    code = str(getattr(error, "status_code", None) or str(error).partition(" ")[0])
    if code in _ANSWERS:
        return _ANSWERS[code]
    for kind, same in ((exceptions.AuthenticationError, "WRONGPASS"), (exceptions.BusyLoadingError, "LOADING")):
        if isinstance(error, kind):
            return _ANSWERS[same]
    if isinstance(error, exceptions.TimeoutError):
        return (
            "it did not answer within FRAUDML_REDIS_TIMEOUT_MS (of workers: FRAUDML_WORKER_REDIS_TIMEOUT_MS); "
            "see whether it is overloaded or out of reach"
        )
    if isinstance(error, exceptions.MaxConnectionsError):
        return "all connections of this process are in use; that is a defect, please report it"
    if isinstance(error, (exceptions.RedisClusterException, exceptions.ClusterError)):
        return f"the cluster cannot be used ({_short(error)}); see to its nodes, or leave out ?cluster=true"
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        return f"it cannot be reached ({_short(error)}); see whether it runs, and whether FRAUDML_REDIS_URL is right"
    return f"it answered: {_short(error)}"


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200].rstrip(".") if str(error) else type(error).__name__
