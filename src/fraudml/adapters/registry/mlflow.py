"""Bundles as versions of an MLflow registered model: a SQLite file and a folder by default, any server by URL.

What serves is said by the rollout document (``_rollouts.py``). The aliases ``champion`` and ``challenger`` follow it
(MLflow 3 has no stages any more), but do not decide.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraudml.adapters.registry._client import create_store, failure, open_client, sqlite_url
from fraudml.adapters.registry._rollouts import Revisions
from fraudml.errors import BundleError, NotFoundError, RegistryError
from fraudml.models import bundle
from fraudml.models.registry import CHALLENGER, CHAMPION, ModelVersion
from fraudml.models.rollout import Rollout

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

ARTIFACT = "bundle"
METRIC_TAG = "fraudml.metric."
HASH_TAG = "fraudml.onnx_sha256"
PAGE = 200
ALIAS_ATTEMPTS = 3
LONGEST_PARAMETER = 500


class MlflowRegistry:
    """The registry port over MLflow; see :class:`fraudml.models.registry.Registry`.

    ``url``: a tracking server or store; ``None`` is ``<home>/registry.db`` with artifacts in ``<home>/artifacts``.
    Fetched bundles are kept in ``<home>/bundles``.
    """

    def __init__(self, url: str | None, *, home: Path, model_name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model_name):
            raise RegistryError(f"the model name {model_name!r} may have only letters, digits, '.', '_' and '-'")
        self._home = home.absolute()
        self._name = model_name
        self._file = None if url else self._home / "registry.db"
        self._url = url or sqlite_url(self._home / "registry.db")
        self._opened: MlflowClient | None = None
        self._revisions = Revisions(model_name)

    def register(self, directory: Path, *, report: Path | None = None, aliases: tuple[str, ...] = ()) -> ModelVersion:
        """Store a bundle as the next version; its run holds parameters, metrics and lineage."""
        manifest = bundle.read_manifest(directory)
        metrics = _flat_metrics(manifest)
        with self._calls() as client:
            run_id, artifacts = self._log_run(client, manifest, metrics, directory, report)
            self._ensure_model(client)
            version = client.create_model_version(
                self._name,
                source=f"{artifacts}/{ARTIFACT}",
                run_id=run_id,
                tags={
                    "fraudml.family": manifest.family,
                    "fraudml.created_at": manifest.created_at,
                    "fraudml.fingerprint": manifest.fingerprint,
                    HASH_TAG: manifest.onnx_sha256,
                    **{METRIC_TAG + key: repr(value) for key, value in metrics.items()},
                },
            ).version
            for alias in aliases:
                self._set_alias(client, alias, str(version))
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
        with self._calls() as client:
            return _version(self._find(client, name), self._aliases(client))

    def fetch(self, version: int) -> Path:
        """A local copy of a version's bundle; taken again when the copy kept is damaged or of another registry."""
        kept = self._place(version)
        with self._calls() as client:
            found = self._find(client, str(version))
            expected = found.tags.get(HASH_TAG)
            if expected is None or not found.run_id:
                raise BundleError(f"version {version} of model {self._name!r} was not registered by fraudml")
            if _is_whole(kept, expected):
                return kept
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as scratch:
                copy = Path(client.download_artifacts(found.run_id, ARTIFACT, scratch))
                if not _is_whole(copy, expected):
                    raise BundleError(
                        f"the registry's copy of version {version} of model {self._name!r} is damaged: "
                        "promote another version, or train again"
                    )
                _put(copy, kept, expected)
        return kept

    def rollouts(self) -> list[Rollout]:
        """Every revision of the rollout document, oldest first."""
        with self._calls() as client:
            return self._revisions.read(client)

    def revise(self, rollout: Rollout) -> Rollout:
        """Store the next revision; the aliases follow, for MLflow's own pages and for other readers."""
        with self._calls() as client:
            for version in rollout.versions:
                self._find(client, str(version))
            stored = self._revisions.add(client, rollout)
            self._set_alias(client, CHAMPION, str(stored.champion))
            if self._aliases(client).get(CHALLENGER) == stored.champion:
                client.delete_registered_model_alias(self._name, CHALLENGER)
        return stored

    def delete(self, version: int) -> None:
        """Delete a version, its run and its files, here and there."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._calls() as client:
            found = self._find(client, str(version))
            if found.run_id:  # the files first: what the registry does not know nobody would find
                place = client.get_run(found.run_id).info.artifact_uri
                try:
                    repository: Any = get_artifact_repository(str(place))
                    repository.delete_artifacts()
                except Exception as error:  # of whatever stores them
                    raise failure(str(place), error) from error
            client.delete_model_version(self._name, str(version))
            if found.run_id:
                client.delete_run(found.run_id)
        shutil.rmtree(self._place(version), ignore_errors=True)

    def kept(self, version: int) -> Path | None:
        """The local copy that an earlier :meth:`fetch` has left, if it is whole."""
        place = self._place(version)
        try:
            expected = bundle.read_manifest(place).onnx_sha256
        except BundleError:
            return None
        return place if _is_whole(place, expected) else None

    def close(self) -> None:
        """Let go of MLflow's client."""
        self._opened = None

    def _place(self, version: int) -> Path:
        return self._home / "bundles" / self._name / str(version)

    @contextmanager
    def _calls(self) -> Iterator[MlflowClient]:
        """Calls to MLflow whose errors are ours."""
        if self._opened is None:
            if self._file is not None:
                create_store(self._file)
            self._opened = open_client(self._url)
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self._opened
        except (MlflowException, SQLAlchemyError, OSError, ValueError) as error:
            raise failure(self._url, error) from error

    def _find(self, client: MlflowClient, name: str) -> MlflowVersion:
        """The version of an alias or number; raises NotFoundError."""
        from mlflow.exceptions import MlflowException

        is_number = name.isascii() and name.isdecimal()
        if name == CHAMPION:
            known = self._revisions.read(client)
            name, is_number = (str(known[-1].champion), True) if known else (name, False)
        try:
            if is_number:
                return client.get_model_version(self._name, name)
            return client.get_model_version_by_alias(self._name, name)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                words = f"version {name}" if is_number else f"version with the alias {name!r}"
                raise NotFoundError(f"there is no {words} of model {self._name!r}") from None
            raise

    def _log_run(
        self,
        client: MlflowClient,
        manifest: bundle.Manifest,
        metrics: dict[str, float],
        directory: Path,
        report: Path | None,
    ) -> tuple[str, str]:
        """A finished run with the bundle and the report as its artifacts: its id and where they are."""
        from mlflow.entities import Metric, Param

        record = manifest.training
        started = client.create_run(
            self._experiment(client),
            run_name=manifest.family,
            tags={
                "fraudml.family": manifest.family,
                "fraudml.fingerprint": manifest.fingerprint,
                "fraudml.data_hash": record.data_hash,
                "fraudml.version": manifest.fraudml_version,
                "fraudml.code": record.code,
                "fraudml.command": record.command,
            },
        ).info
        facts = {
            "seed": record.seed,
            "rows": record.rows,
            "frauds": record.frauds,
            "since_us": record.since_us,
            "until_us": record.until_us,
            "refitted": record.refitted,
        }
        client.log_batch(
            started.run_id,
            metrics=[Metric(key, value, 0, 0) for key, value in metrics.items()],
            params=[
                Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in {**record.parameters, **facts}.items()
            ],
        )
        client.log_artifacts(started.run_id, str(directory), ARTIFACT)
        if report:
            client.log_artifact(started.run_id, str(report))
        client.set_terminated(started.run_id)
        return started.run_id, str(started.artifact_uri)

    def _ensure_model(self, client: MlflowClient) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._name)
        if found is None:
            location = (self._home / "artifacts").as_uri() if self._file else None
            try:
                return str(client.create_experiment(self._name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(self._name)
        if found is None:
            raise RegistryError(f"the experiment {self._name!r} was deleted in MLflow; restore it or rename the model")
        return str(found.experiment_id)

    def _set_alias(self, client: MlflowClient, alias: str, version: str) -> None:
        """Point an alias to a version; when several processes give it for the first time, all but one meet a row
        that was not there when they looked."""
        from mlflow.exceptions import MlflowException

        for _ in range(ALIAS_ATTEMPTS - 1):
            with suppress(MlflowException):
                client.set_registered_model_alias(self._name, alias, version)
                return
        client.set_registered_model_alias(self._name, alias, version)

    def _aliases(self, client: MlflowClient) -> dict[str, int]:
        from mlflow.exceptions import MlflowException

        try:
            found = {alias: int(v) for alias, v in client.get_registered_model(self._name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        found.pop(CHAMPION, None)  # one that nothing but MLflow knows of serves nobody
        known = self._revisions.read(client)
        return {**found, CHAMPION: known[-1].champion} if known else found


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


def _is_whole(directory: Path, onnx_sha256: str) -> bool:
    """Whether a directory holds the bundle with this model, undamaged."""
    try:
        manifest = bundle.read_manifest(directory)
        model = (directory / bundle.MODEL_FILE).read_bytes()
    except (BundleError, OSError):
        return False
    return hashlib.sha256(model).hexdigest() == manifest.onnx_sha256 == onnx_sha256


def _put(copy: Path, kept: Path, onnx_sha256: str) -> None:
    """Move a bundle to its place; it appears whole or not at all."""
    shutil.rmtree(kept, ignore_errors=True)
    try:
        copy.replace(kept)
    except OSError:
        if not _is_whole(kept, onnx_sha256):  # else another process put the same bundle there first
            raise
