"""Bundles as versions of an MLflow registered model: a SQLite file and a folder by default, any server by URL.

Aliases name the versions that serve (MLflow 3 has no stages any more). Each change of the champion is one tag of
the registered model, ``fraudml.champion.<number>``, so the history is never overwritten.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fraudml.errors import BundleError, NotFoundError, RegistryError
from fraudml.models import bundle
from fraudml.models.registry import CHALLENGER, CHAMPION, ModelVersion, Promotion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

ARTIFACT = "bundle"
PROMOTION_TAG = "fraudml.champion."
METRIC_TAG = "fraudml.metric."
PAGE = 200


class MlflowRegistry:
    """The registry port over MLflow; see :class:`fraudml.models.registry.Registry`.

    ``url``: a tracking server or store; ``None`` is ``<home>/registry.db`` with artifacts in ``<home>/artifacts``.
    Fetched bundles are kept in ``<home>/bundles``.
    """

    def __init__(self, url: str | None, *, home: Path, model_name: str) -> None:
        self._home = home.absolute()
        self._name = model_name
        self._local = url is None
        home.mkdir(parents=True, exist_ok=True)
        self._url = url or f"sqlite:///{self._home / 'registry.db'}"
        self._opened: MlflowClient | None = None

    def register(
        self, directory: Path, *, run: dict[str, Any] | None = None, aliases: tuple[str, ...] = ()
    ) -> ModelVersion:
        """Store a bundle as the next version; its run holds parameters, metrics and lineage."""
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        manifest = bundle.read_manifest(directory)
        metrics = _flat_metrics(manifest)
        record = manifest.training
        with self._calls() as client:
            started = client.create_run(
                self._experiment(client),
                run_name=manifest.family,
                tags={
                    "fraudml.family": manifest.family,
                    "fraudml.fingerprint": manifest.fingerprint,
                    "fraudml.data_hash": record.data_hash,
                    "fraudml.version": manifest.fraudml_version,
                },
            ).info
            facts = {"seed": record.seed, "rows": record.rows, "since_us": record.since_us, "until_us": record.until_us}
            params = [Param(key, str(value)[:500]) for key, value in {**record.parameters, **facts}.items()]
            client.log_batch(
                started.run_id,
                metrics=[Metric(key, value, 0, 0) for key, value in metrics.items()],
                params=params,
            )
            client.log_artifacts(started.run_id, str(directory), ARTIFACT)
            report = (run or {}).get("report")
            if report:
                client.log_artifact(started.run_id, str(report))
            client.set_terminated(started.run_id)
            try:
                client.create_registered_model(self._name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = client.create_model_version(
                self._name,
                source=f"{started.artifact_uri}/{ARTIFACT}",
                run_id=started.run_id,
                tags={
                    "fraudml.family": manifest.family,
                    "fraudml.created_at": manifest.created_at,
                    "fraudml.fingerprint": manifest.fingerprint,
                    **{METRIC_TAG + key: repr(value) for key, value in metrics.items()},
                },
            ).version
            for alias in aliases:
                client.set_registered_model_alias(self._name, alias, version)
        return self.resolve(str(version))

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first."""
        found: list[MlflowVersion] = []
        token = None
        with self._calls() as client:
            aliases = self._aliases(client)
            while True:
                page = client.search_model_versions(f"name='{self._name}'", max_results=PAGE, page_token=token)
                found.extend(page)
                token = page.token
                if not token:
                    break
        return sorted((_version(v, aliases) for v in found), key=lambda v: -v.version)

    def resolve(self, name: str) -> ModelVersion:
        """The version of an alias or number; raises NotFoundError."""
        from mlflow.exceptions import MlflowException

        with self._calls() as client:
            try:
                found = (
                    client.get_model_version(self._name, name)
                    if name.isdigit()
                    else client.get_model_version_by_alias(self._name, name)
                )
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise NotFoundError(f"there is no {_words(name)} of model {self._name!r}") from None
                raise
            return _version(found, self._aliases(client))

    def fetch(self, version: int) -> Path:
        """A local copy of a version's bundle; taken again when the copy kept does not fit its manifest."""
        kept = self._home / "bundles" / self._name / str(version)
        if _whole(kept):
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch, self._calls() as client:
            run_id = client.get_model_version(self._name, str(version)).run_id
            found = Path(client.download_artifacts(run_id, ARTIFACT, scratch))
            shutil.rmtree(kept, ignore_errors=True)
            try:
                found.replace(kept)  # appears whole or not at all
            except OSError:
                if not _whole(kept):  # another process put the same bundle there first
                    raise
        return kept

    def promote(self, version: int, reason: str) -> ModelVersion:
        """Make a version the champion and remember why."""
        if not reason.strip():
            raise RegistryError("a promotion needs a reason; it is kept in the history")
        self.resolve(str(version))
        history = self.champions()
        previous = history[-1].version if history else None
        entry = Promotion(bundle.now_iso(), version, previous, reason.strip())
        with self._calls() as client:
            key = f"{PROMOTION_TAG}{len(history) + 1:06d}"
            client.set_registered_model_tag(self._name, key, msgspec.json.encode(entry).decode())
            client.set_registered_model_alias(self._name, CHAMPION, str(version))
            if self._aliases(client).get(CHALLENGER) == version:
                client.delete_registered_model_alias(self._name, CHALLENGER)
        return self.resolve(str(version))

    def rollback(self, reason: str) -> ModelVersion:
        """Make the champion before this one champion again; repeated, it walks further back."""
        history = self.champions()
        # undo: a promotion to a version seen before is a way back, and takes what came after it with it
        path: list[int] = []
        for entry in history:
            seen = path.index(entry.version) if entry.version in path else len(path)
            path = [*path[:seen], entry.version]
        if len(path) < 2:
            raise RegistryError(f"model {self._name!r} has no earlier champion to go back to")
        return self.promote(path[-2], reason)

    def champions(self) -> list[Promotion]:
        """Every change of the champion, oldest first."""
        from mlflow.exceptions import MlflowException

        with self._calls() as client:
            try:
                tags = client.get_registered_model(self._name).tags
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return []
                raise
        entries = sorted((key, value) for key, value in tags.items() if key.startswith(PROMOTION_TAG))
        return [msgspec.json.decode(value, type=Promotion) for _, value in entries]

    @contextmanager
    def _calls(self) -> Iterator[MlflowClient]:
        """Calls to MLflow whose errors are ours."""
        client = self._client()
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except (MlflowException, OSError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RegistryError(f"the model registry at {self._shown_url()} failed: {first}") from error

    def _client(self) -> MlflowClient:
        if self._opened is None:
            # a library must not call home, and a user did not ask how tables are created
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("DO_NOT_TRACK", "true")
            os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
            from mlflow import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self._opened = MlflowClient(tracking_uri=self._url, registry_uri=self._url)
        return self._opened

    def _experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._name)
        if found is None:
            location = (self._home / "artifacts").as_uri() if self._local else None
            try:
                return str(client.create_experiment(self._name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(self._name)
        if found is None:
            raise RegistryError(f"the experiment {self._name!r} was deleted in MLflow; restore it or rename the model")
        return str(found.experiment_id)

    def _aliases(self, client: MlflowClient) -> dict[str, int]:
        from mlflow.exceptions import MlflowException

        try:
            return {alias: int(v) for alias, v in client.get_registered_model(self._name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def _shown_url(self) -> str:
        """The URL without credentials."""
        from urllib.parse import urlsplit, urlunsplit

        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _version(found: MlflowVersion, aliases: dict[str, int]) -> ModelVersion:
    number = int(found.version)
    tags: dict[str, str] = found.tags
    return ModelVersion(
        version=number,
        family=tags.get("fraudml.family", ""),
        created_at=tags.get("fraudml.created_at", ""),
        fingerprint=tags.get("fraudml.fingerprint", ""),
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        metrics={k.removeprefix(METRIC_TAG): float(v) for k, v in sorted(tags.items()) if k.startswith(METRIC_TAG)},
    )


def _flat_metrics(manifest: bundle.Manifest) -> dict[str, float]:
    """Metrics as MLflow keeps them: flat, numbers only; MLflow allows no ``@`` in a name."""
    nested = {f"money_{key}": value for key, value in manifest.metrics.get("money", {}).items()}
    every = {**manifest.metrics, **nested}
    return {key: float(value) for key, value in every.items() if isinstance(value, (int, float))}


def _whole(directory: Path) -> bool:
    try:
        manifest = bundle.read_manifest(directory)
        model = (directory / bundle.MODEL_FILE).read_bytes()
    except (BundleError, OSError):
        return False
    return hashlib.sha256(model).hexdigest() == manifest.onnx_sha256


def _words(name: str) -> str:
    return f"version {name}" if name.isdigit() else f"version with the alias {name!r}"
