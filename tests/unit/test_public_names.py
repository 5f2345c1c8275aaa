"""The public names: every ``__all__`` is sorted, complete, and what it lists is documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import fraudml

MODULES = ["fraudml", *sorted(m.name for m in pkgutil.walk_packages(fraudml.__path__, "fraudml.") if m.ispkg)]


def exporting_modules() -> list[ModuleType]:
    modules = (importlib.import_module(name) for name in MODULES)
    return [module for module in modules if hasattr(module, "__all__")]


def constants_classes_others(name: str) -> tuple[int, str]:
    """The order that ruff (RUF022) writes.

    >>> sorted(["open", "Reader", "MAX_ROWS"], key=constants_classes_others)
    ['MAX_ROWS', 'Reader', 'open']
    """
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", exporting_modules(), ids=lambda module: module.__name__)
def test_all_is_sorted_and_exists(module: ModuleType) -> None:
    assert list(module.__all__) == sorted(set(module.__all__), key=constants_classes_others)
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("module", exporting_modules(), ids=lambda module: module.__name__)
def test_what_is_exported_is_documented(module: ModuleType) -> None:
    exported = {name: getattr(module, name) for name in module.__all__}
    undocumented = [
        name
        for name, value in exported.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value)
    ]
    assert not undocumented


def test_the_package_says_what_it_exports() -> None:
    assert "__version__" in fraudml.__all__
