"""Where models come from, and what they have computed before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fraudml.errors import ConfigError, NotFoundError
from fraudml.features.spec import AttributeFeature, FeatureSet
from fraudml.models.registry import CHAMPION, Registry
from fraudml.settings import Settings

if TYPE_CHECKING:
    from fraudml.adapters.connections.shared_redis import SharedRedis
    from fraudml.adapters.model_server.open_inference import OpenInferenceModel
    from fraudml.decisions.cache import OnOutcome, PredictionCache
    from fraudml.decisions.model import Model
    from fraudml.decisions.model_server import ServedModel
    from fraudml.models.bundle import Bundle

MOST_CODES = 4_000  # of a category; the prediction cache keeps whole numbers apart up to 8,192


def registry(settings: Settings) -> Registry:
    """The model registry."""
    from fraudml.adapters.registry.mlflow import MlflowRegistry

    return MlflowRegistry(settings.registry_url, home=settings.home, model_name=settings.model_name)


def champion(settings: Settings, feature_set: FeatureSet, name: str = CHAMPION) -> Bundle:
    """The verified bundle that serves (or another, by alias or version number)."""
    named, load = _versions(settings, feature_set, name)
    return load(named())


class ModelSource(NamedTuple):
    """Models as they serve: ``load(named())`` is the one that the alias or number means now.

    ``named`` raises ``NotFoundError`` and ``RegistryError``; ``load`` also ``BundleError``, when the version must not
    serve. They share one connection, and all models one prediction cache.
    """

    named: Callable[[], str]
    load: Callable[[str], Model]


def model_source(
    settings: Settings,
    feature_set: FeatureSet,
    name: str = CHAMPION,
    on_cache: OnOutcome | None = None,
    shared: SharedRedis | None = None,
) -> ModelSource:
    """Where a scoring process gets its models; ``on_cache`` is told how look-ups in the prediction cache ended, which
    may be in ``shared``."""
    from fraudml.decisions.cache import ScoreCache
    from fraudml.decisions.model import Model
    from fraudml.decisions.policy import Policy, WhenDegraded

    named, load = _versions(settings, feature_set, name)
    held = prediction_cache(settings, feature_set, shared)
    cache = ScoreCache(held, on_cache) if held is not None else None

    def loaded(version: str) -> Model:
        bundle = load(version)
        policy = Policy.of(bundle.manifest.thresholds, WhenDegraded(settings.when_degraded))
        return Model(bundle, policy, cache=cache, server=model_server(settings, bundle))

    return ModelSource(named, loaded)


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


def _versions(
    settings: Settings, feature_set: FeatureSet, name: str
) -> tuple[Callable[[], str], Callable[[str], Bundle]]:
    """Two calls over one connection: the version that a name means now, and the verified bundle of a version."""
    from fraudml.models import bundle

    models = registry(settings)

    def named() -> str:
        try:
            return str(models.resolve(name).version)
        except NotFoundError as error:
            raise NotFoundError(f"{error}; train one with: fraudml train") from None

    def load(version: str) -> Bundle:
        return bundle.load(models.fetch(int(version)), expect=feature_set, version=version)

    return named, load
