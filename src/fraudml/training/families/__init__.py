"""Model families, one file each. Adding a family is adding a file that defines ``FAMILY``; nothing to register.

Files whose name begins with an underscore, and ``base``, are what the families share.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from importlib.util import find_spec

from fraudml.errors import MissingExtra, TrainingError
from fraudml.training.families.base import Family, FittedModel

# OpenMP threads that spin while they wait for each other take the time of whatever else runs on the machine, and
# make a fit many times slower there. It is read once, when the first family loads its library.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["DEFAULT_NAMES", "Family", "FittedModel", "family_names", "get_family"]

# What ``fraudml train`` trains unless told which: quick, and nothing to choose first. Others are asked for by name.
DEFAULT_NAMES = ("logistic_regression", "random_forest", "xgboost")


def family_names() -> list[str]:
    """Names of all families, sorted: the files of this folder.

    >>> family_names()
    ['cascade', 'deep', 'logistic_regression', 'random_forest', 'xgboost']
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name for name in names if name != "base" and not name.startswith("_"))


def get_family(name: str) -> Family:
    """The family called ``name``; a :class:`TrainingError` names those that exist.

    Raises :class:`MissingExtra` when what the file's ``NEEDS`` names is not installed: the extra has the family's name.

    >>> get_family("xgboost").name
    'xgboost'
    """
    if name not in family_names():
        raise TrainingError(f"no model family {name!r}; choose from: {', '.join(family_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    if any(find_spec(package) is None for package in getattr(module, "NEEDS", ())):
        raise MissingExtra(name)
    family: Family = module.FAMILY
    return family
