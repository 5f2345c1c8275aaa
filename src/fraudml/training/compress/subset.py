"""The most important inputs of a FeatureSet, and what they are derived from."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fraudml.errors import ConfigError
from fraudml.features.spec import FeatureSet


def most_important(feature_set: FeatureSet, importance: Mapping[str, float], count: int) -> FeatureSet:
    """The FeatureSet whose inputs are the ``count`` most important ones, in the order of declaration.

    ``importance``: by name, larger is more. Other features stay only where a derived input needs them, as
    ``input: false``. Raises ConfigError when there are no fewer inputs than ``count`` allows.
    """
    names = feature_set.input_names
    if not 0 < count < len(names):
        raise ConfigError(f"--features {count} must be at least 1 and below {len(names)}, the inputs of the model now")
    kept = set(sorted(names, key=lambda name: -importance.get(name, 0.0))[:count])
    needed = feature_set.needed_by(kept)
    return FeatureSet(
        feature_set.schema,
        [
            feature if feature.name in kept else msgspec.structs.replace(feature, input=False)
            for feature in feature_set.features
            if feature.name in needed
        ],
    )
