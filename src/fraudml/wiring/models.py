"""Where models come from, and what they have computed before."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fraudml.errors import ConfigError, NotFoundError, RegistryError
from fraudml.features.spec import AttributeFeature, FeatureSet
from fraudml.models import bundle, lifecycle
from fraudml.models.registry import CHAMPION, Registry
from fraudml.settings import Settings
from fraudml.wiring.last_known import LastKnown

if TYPE_CHECKING:
    from fraudml.adapters.connections.shared_redis import SharedRedis
    from fraudml.adapters.model_server.open_inference import OpenInferenceModel
    from fraudml.adapters.registry.apart import RegistryApart
    from fraudml.decisions.cache import OnOutcome, PredictionCache
    from fraudml.decisions.model import Model
    from fraudml.decisions.model_server import ServedModel
    from fraudml.models.bundle import Bundle
    from fraudml.models.rollout import Rollout

MOST_CODES = 4_000  # of a category; the prediction cache keeps whole numbers apart up to 8,192


def registry(settings: Settings) -> Registry:
    """The model registry."""
    from fraudml.adapters.registry.mlflow import MlflowRegistry

    return MlflowRegistry(settings.registry_url, home=settings.home, model_name=settings.model_name)


def registry_apart(settings: Settings) -> RegistryApart:
    """The same in a process of its own, for a service; to be closed."""
    from fraudml.adapters.registry.apart import RegistryApart

    return RegistryApart(settings.registry_url, home=settings.home, model_name=settings.model_name)


def champion(settings: Settings, feature_set: FeatureSet, name: str = CHAMPION) -> Bundle:
    """The verified bundle that serves (or another, by alias or version number)."""
    models = registry(settings)
    try:
        version = models.resolve(name).version
    except NotFoundError as error:
        raise _untrained(error) from None
    return bundle.load(models.fetch(version), expect=feature_set, version=str(version))


class ModelSource(NamedTuple):
    """Models as they serve: ``load`` gives each version of the document that is ``named`` now.

    ``named`` raises ``NotFoundError`` and ``RegistryError``; ``load`` also ``BundleError``, when the version must not
    serve. While the registry is gone ``last`` has the document as this machine saw it last, if it ever did, and
    ``load_kept`` the copies that are kept here, without asking. ``end_breached`` writes the end of a rollout and its
    reason into the registry. They share one connection, and all models one prediction cache.
    """

    named: Callable[[], Rollout]
    load: Callable[[int], Model]
    load_kept: Callable[[int], Model]
    last: Callable[[], Rollout | None]
    end_breached: Callable[[Rollout, str], None]


def model_source(
    settings: Settings,
    feature_set: FeatureSet,
    name: str = CHAMPION,
    on_cache: OnOutcome | None = None,
    shared: SharedRedis | None = None,
    models: Registry | None = None,
) -> ModelSource:
    """Where a scoring process gets its models: those of the rollout document, or the one of another alias or number.

    ``on_cache`` is told how look-ups in the prediction cache ended, which may be in ``shared``. ``models`` is the
    registry, by default that of the settings, in this process."""
    from fraudml.decisions.cache import ScoreCache
    from fraudml.decisions.model import Model
    from fraudml.decisions.policy import Policy, WhenDegraded

    models = models or registry(settings)
    last_known = LastKnown(settings)
    held = prediction_cache(settings, feature_set, shared)
    cache = ScoreCache(held, on_cache) if held is not None else None

    def named() -> Rollout:
        try:
            if name == CHAMPION:
                rollout = lifecycle.current(models)
                last_known.write(rollout)
                return rollout
            return lifecycle.alone(models.resolve(name).version)
        except NotFoundError as error:
            raise _untrained(error) from None

    def last() -> Rollout | None:
        if name == CHAMPION:
            return last_known.read()
        return lifecycle.alone(int(name)) if name.isdecimal() else None

    def load(version: int) -> Model:
        return loaded(version, models.fetch(version))

    def load_kept(version: int) -> Model:
        kept = models.kept(version)
        if kept is None:
            raise RegistryError(f"the model registry is gone, and no copy of version {version} is kept here")
        return loaded(version, kept)

    def loaded(version: int, directory: Path) -> Model:
        found = bundle.load(directory, expect=feature_set, version=str(version))
        policy = Policy.of(found.manifest.thresholds, WhenDegraded(settings.when_degraded))
        return Model(found, policy, cache=cache, server=model_server(settings, found), kept=feature_set)

    def end_breached(rollout: Rollout, reason: str) -> None:
        lifecycle.end_breached(models, rollout, reason, f"guardrails@{socket.gethostname()}")

    return ModelSource(named, load, load_kept, last, end_breached)


def _untrained(error: NotFoundError) -> NotFoundError:
    said = str(error)
    return error if "fraudml train" in said else NotFoundError(f"{said}; train one with: fraudml train")


def model_server(settings: Settings, bundle: Bundle) -> ServedModel | None:
    """The bundle's model on the model server that the settings name, tested; ``None`` where they name none.

    Raises ConfigError for a URL that is none; a server that cannot be used is told of by the result.
    """
    from fraudml.decisions.model_server import ServedModel

    remote = remote_model(settings, bundle)
    if remote is None:
        return None
    served = ServedModel(remote, bundle)
    served.check()
    return served


def remote_model(settings: Settings, bundle: Bundle, timeout_s: float | None = None) -> OpenInferenceModel | None:
    """The same without a local copy behind it, and not tested; ``{version}`` in its URL is the bundle's."""
    from fraudml.adapters.model_server.open_inference import OpenInferenceModel

    if settings.model_server_url is None:
        return None
    url = settings.model_server_url.get_secret_value().replace("{version}", bundle.version)
    return OpenInferenceModel(
        url, len(bundle.feature_set.inputs), timeout_s or settings.model_server_timeout_ms / 1_000
    )


def prediction_cache(
    settings: Settings, feature_set: FeatureSet, shared: SharedRedis | None = None
) -> PredictionCache | None:
    """The prediction cache, or ``None``: as set, by default only where no input of the model comes from history, nor
    from a category of more than :data:`MOST_CODES` values. In ``shared`` only where the settings say so: what is not in
    this process costs each batch a round trip, which takes as long as scoring does.

    What comes from history differs with each transaction, so such a model's inputs hardly ever repeat. And while the
    cache is on inputs are quantised: large codes, which name values that have nothing in common, would become one.
    """
    from fraudml.adapters.cache.memory import MemoryPredictionCache
    from fraudml.adapters.cache.redis import RedisPredictionCache

    history = {feature.name for feature in feature_set.state_features}
    attributes = feature_set.schema.attributes
    large = {name for name, attribute in attributes.items() if len(attribute.vocabulary) > MOST_CODES}
    coded = {f.name for f in feature_set.features if isinstance(f, AttributeFeature) and f.of in large}
    unfit = bool((history | coded) & feature_set.needed_by(feature_set.input_names))
    if settings.cache == "off" or (settings.cache == "auto" and unfit):
        return None
    if settings.cache == "shared":
        if shared is None:
            raise ConfigError("FRAUDML_CACHE=shared keeps scores in Redis: set FRAUDML_REDIS_URL, or FRAUDML_CACHE=on")
        return RedisPredictionCache(shared, settings.cache_size, settings.cache_ttl_s)
    return MemoryPredictionCache(settings.cache_size, settings.cache_ttl_s)
