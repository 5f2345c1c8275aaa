"""Publishes messages and moves a group past those they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fraudml.adapters.stream.connection import Config
from fraudml.adapters.stream.producer import TransactionalProducer
from fraudml.adapters.stream.reader import TopicReader
from fraudml.decisions.stream import Outgoing, Partition


class Mover(TopicReader):
    """A reader that moves its group. One at a time: who starts under the same name ends who came before, with what that
    one had begun; its next :meth:`move` raises ``FencedError``."""

    def __init__(self, config: Config, group: str, timeout_s: float) -> None:
        super().__init__(config, group, timeout_s)
        # before offsets are asked for: from now on nobody else moves them
        self._producer = TransactionalProducer(config, group, transaction_s=timeout_s, start_s=timeout_s)

    def move(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int]) -> None:
        """As one transaction: see :meth:`TransactionalProducer.commit`."""
        self._producer.commit(outgoing, done, self.consumer.consumer_group_metadata())

    def close(self) -> None:
        """Let go of the connections."""
        self._producer.close()
        super().close()
