"""The revisions of the rollout document, as versions of a second registered model.

MLflow has no compare-and-set, but it numbers the versions of a model one after the other, whoever creates them. So a
revision is a version that names the one it was made from, and counts only when that was the last that counted. Every
reader comes to the same verdict from the same list, and of two writers who were at it at once exactly one is told that
its revision counts.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from fraudml.errors import ConfigError, ConflictError, RegistryError
from fraudml.models.rollout import Rollout, check

if TYPE_CHECKING:
    from mlflow import MlflowClient

SUFFIX = ".rollout"
DOCUMENT_TAG = "fraudml.rollout"
SOURCE = "fraudml:rollout"  # MLflow wants a place of files; there are none
PAGE = 20  # a replica that looks for news reads one page

_decode = msgspec.json.Decoder(Rollout).decode
_encode = msgspec.json.Encoder().encode


class Revisions:
    """The revisions that count, kept in memory: only new ones are read again. Several threads may read at once."""

    def __init__(self, model_name: str) -> None:
        self._name = model_name + SUFFIX
        self._lock = threading.Lock()
        self._seen = 0  # the number of the last version that was looked at
        self._counted: list[Rollout] = []

    def read(self, client: MlflowClient) -> list[Rollout]:
        """All that count, oldest first; errors are those of ``client``, and RegistryError for what is no revision."""
        fresh = self._newer(client)
        with self._lock:
            for number in sorted(fresh):
                if number <= self._seen:  # another thread was faster
                    continue
                rollout = self._decoded(number, fresh[number])
                last = self._counted[-1].revision if self._counted else 0
                if rollout.revision == last:
                    self._counted.append(msgspec.structs.replace(rollout, revision=number))
                self._seen = number
            return list(self._counted)

    def add(self, client: MlflowClient, rollout: Rollout) -> Rollout:
        """Store the next revision; raises ConflictError when another was faster."""
        check(rollout)
        known = self.read(client)
        last = known[-1].revision if known else 0
        if rollout.revision == last:
            if not known:
                self._ensure_model(client)
            tags = {DOCUMENT_TAG: _encode(rollout).decode()}
            number = int(client.create_model_version(self._name, SOURCE, tags=tags).version)
            for counted in reversed(self.read(client)):
                if counted.revision == number:
                    return counted
        raise ConflictError(
            "what serves was changed by somebody else just now: look at fraudml rollout status, and decide again"
        )

    def _newer(self, client: MlflowClient) -> dict[int, str]:
        """The documents that were not looked at yet, by number."""
        found: dict[int, str] = {}
        token = None
        while True:
            page = client.search_model_versions(
                f"name='{self._name}'", max_results=PAGE, order_by=["version_number DESC"], page_token=token
            )
            for version in page:
                if int(version.version) <= self._seen:
                    return found
                found[int(version.version)] = version.tags.get(DOCUMENT_TAG, "")
            token = page.token
            if not token:
                return found

    def _decoded(self, number: int, text: str) -> Rollout:
        try:
            return check(_decode(text))
        except (msgspec.MsgspecError, RecursionError, ConfigError) as error:
            raise RegistryError(
                f"revision {number} of the rollout document {self._name!r} is damaged: {error}"
            ) from None

    def _ensure_model(self, client: MlflowClient) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(
                self._name, description="What serves: written by fraudml rollout and models."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
