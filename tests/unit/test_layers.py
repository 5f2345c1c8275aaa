"""The import law: who may import whom, as docs/concepts/architecture.md draws it.

Imports inside functions and under TYPE_CHECKING count too: a type is a dependency like any other.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "fraudml"

CORE = {"events", "features", "models", "decisions"}
FRONT = {"wiring", "project", "settings", "monitoring", "decisions", "events"}

# Unit -> the other units it may import. Everyone may import `errors`. An adapter role is a unit of its own.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "events": set(),
    "simulation": {"events"},
    "features": {"events"},
    "models": {"features", "events"},
    "decisions": {"models", "features", "events"},
    "pages": set(),
    "training": CORE | {"pages"},
    "monitoring": CORE | {"pages"},
    "operations": CORE,
    "adapters": set(),
    "adapters.*": CORE,
    "project": {"decisions", "features", "events"},
    "wiring": {"project", "settings", "adapters.*"} | CORE,
    # What service and worker have in common. DESIGN's table plus features and models: a process that scores follows
    # the rollout document, and fills online state.
    "scoring": FRONT | {"features", "models"},
    "service": FRONT | {"scoring", "models"},
    "worker": FRONT | {"scoring", "models"},
    # DESIGN's table plus features and models, which `features list` and `models list` show, and the service that
    # `serve` starts.
    "cli": FRONT
    | {
        "service",
        "worker",
        "scoring",
        "training",
        "operations",
        "simulation",
        "inference",
        "features",
        "models",
        "pages",
    },
    "inference": {"events", "features"},
    # one file that is copied to devices: see test_the_edge_needs_nothing_but_numpy_and_onnxruntime
    "edge": set(),
    "fraudml": set(),
    "__main__": {"cli"},
}

# Third-party package -> the only units that may import it. What is not listed is free for all.
HOME_OF: dict[str, set[str]] = {
    "fastapi": {"service"},
    "starlette": {"service"},
    "uvicorn": {"service", "cli"},
    "typer": {"cli"},
    "rich": {"cli"},
    "duckdb": {"adapters.connections", "adapters.offline", "adapters.source"},
    "psycopg": {"adapters.connections", "adapters.log", "adapters.source", "adapters.offline"},
    "confluent_kafka": {"adapters.stream"},
    "fsspec": {"adapters.connections"},
    "redis": {"adapters.connections", "adapters.online", "adapters.cache"},
    "pyspark": {"adapters.connections", "adapters.offline", "training"},
    "snowflake": {"adapters.connections", "adapters.offline", "adapters.source", "adapters.warehouse"},
    "google": {"adapters.connections", "adapters.offline", "adapters.source", "adapters.warehouse"},
    "mlflow": {"adapters.registry"},
    "alembic": {"adapters.log"},
    "xgboost": {"training"},
    "sklearn": {"training"},
    "jax": {"training"},
    "optax": {"training"},
    "onnx": {"training"},
    "onnxruntime": {"models", "training", "edge"},
    "pydantic_settings": {"settings"},
    "pandas": set(),
    "pytest": set(),
    "hypothesis": set(),
}

# What a scoring process must not load: training code, model frameworks, a registry client it may not need.
NOT_WHEN_SCORING = {
    "fraudml.training",
    "sklearn",
    "xgboost",
    "jax",
    "optax",
    "mlflow",
    "pandas",
    "pyspark",
    "onnx",
    "scipy",
}
SCORING_PATH = [
    "fraudml.service.app",
    "fraudml.worker.loop",
    "fraudml.decisions.scorer",
    "fraudml.models.runtime",
    "fraudml.wiring",
]

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    """The unit of the table that a module belongs to.

    >>> unit_of("fraudml.features.spec"), unit_of("fraudml.adapters.offline.duckdb"), unit_of("fraudml")
    ('features', 'adapters.offline', 'fraudml')
    """
    parts = module.split(".")[1:]
    if not parts:
        return "fraudml"
    return ".".join(parts[:2]) if parts[0] == "adapters" else parts[0]


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imports(path: Path, tree: ast.AST | None = None) -> Iterator[tuple[int, str]]:
    """Every (line, absolute module) that a file imports; `from package import module` names the module."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if (source, alias.name) == ("fraudml", "__version__"):
                    continue  # anyone may know the version
                full = f"{source}.{alias.name}"
                yield node.lineno, full if source.startswith("fraudml") and is_module(full) else source


def may_import(importer: str, imported: str) -> bool:
    if imported in {importer, "errors"} or (imported, importer) == ("adapters", importer.partition(".")[0]):
        return True
    if imported == "fraudml":  # the public names, for those at the top
        return importer in {"cli", "service", "worker", "wiring", "__main__"}
    allowed = MAY_IMPORT["adapters.*" if importer.startswith("adapters.") else importer]
    return imported in allowed or ("adapters.*" in allowed and imported.startswith("adapters"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_table_holds(path: Path) -> None:
    importer = unit_of(module_name(path))
    assert importer.partition(".")[0] in MAY_IMPORT, f"{importer}: a new unit needs a row in the import table"
    forbidden = []
    for line, imported in imports(path):
        if imported.partition(".")[0] == "fraudml":
            allowed = may_import(importer, unit_of(imported))
        else:
            allowed = importer in HOME_OF.get(imported.partition(".")[0], {importer})
        if not allowed:
            forbidden.append(f"{path.name}:{line} imports {imported}")
    assert not forbidden, f"{importer} may not: " + "; ".join(forbidden)


@pytest.mark.parametrize("path", [file for file in FILES if file.name == "__init__.py"], ids=module_name)
def test_a_package_init_imports_only_its_own_modules_and_the_errors(path: Path) -> None:
    package = module_name(path)
    outside = [
        imported
        for _, imported in imports(path)
        if imported.partition(".")[0] not in sys.stdlib_module_names
        and not f"{imported}.".startswith((f"{package}.", "fraudml.errors."))
    ]
    assert not outside, f"{package}/__init__.py imports {outside}; import them in the module that uses them"


def test_the_environment_is_read_only_in_settings() -> None:
    readers = [
        module_name(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    # MLflow, ONNX Runtime (no telemetry) and OpenMP (no busy waiting) take their switches from nowhere else: these
    # set them, and read nothing
    setters = {
        "fraudml.adapters.registry._client",
        "fraudml.models.runtime",
        "fraudml.edge",
        "fraudml.training.families",
    }
    assert set(readers) <= {"fraudml.settings"} | setters


def test_the_edge_needs_nothing_but_numpy_and_onnxruntime() -> None:
    packages = {name.partition(".")[0] for _, name in imports(PACKAGE / "edge.py")}
    assert packages - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def loaded_by(*modules: str) -> set[str]:
    """The names in ``sys.modules`` of a fresh interpreter that imports the modules."""
    code = "import sys\n" + "\n".join(f"import {name}" for name in modules) + "\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_scoring_loads_no_training_code() -> None:
    present = [name for name in SCORING_PATH if importlib.util.find_spec(name)]
    assert not loaded_by(*present) & NOT_WHEN_SCORING


def test_the_command_starts_without_the_heavy_libraries() -> None:
    heavy = NOT_WHEN_SCORING | {
        "numpy",
        "duckdb",
        "onnxruntime",
        "pyarrow",
        "sqlalchemy",
        "fastapi",
        "sqlglot",
    }
    present = [name for name in ("fraudml", "fraudml.cli.main") if importlib.util.find_spec(name)]
    assert not loaded_by(*present) & heavy


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("features", "events", True),
        ("features", "errors", True),
        ("features", "models", False),
        ("events", "settings", False),
        ("adapters.online", "features", True),
        ("adapters.online", "adapters.offline", False),
        ("adapters.online", "training", False),
        ("wiring", "adapters.log", True),
        ("service", "adapters.log", False),
        ("service", "training", False),
        ("cli", "training", True),
        ("training", "monitoring", False),
    ],
)
def test_the_law_itself(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


def test_every_form_of_import_is_seen() -> None:
    source = (
        "import numpy.linalg\nfrom . import spec\nfrom ..events import schema\nfrom fraudml import settings\n"
        "def f():\n    from fraudml.models.bundle import Bundle\n"
    )
    found = {name for _, name in imports(PACKAGE / "features" / "sql.py", ast.parse(source))}
    units = {unit_of(name) for name in found if name.startswith("fraudml")}
    assert "numpy.linalg" in found
    assert units >= {"features", "events", "settings", "models"}
