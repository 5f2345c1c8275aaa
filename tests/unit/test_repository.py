"""House rules about the files themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

import fraudml

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_LINES = 400
MAX_BYTES = 1_000_000

# A path that exists on one machine only. Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(
    "|".join(["/" + "work/", "/" + "tmp/studio", "/" + "root/", "/" + "Users/", "/home/" + "[a-z]+/"])
)


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in done.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def source_name(path: Path) -> str:
    return str(path.relative_to(ROOT / "src"))


def test_no_file_names_a_machine() -> None:
    naming = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        naming += [f"{path.relative_to(ROOT)}: {found.group()}" for found in MACHINE_PATH.finditer(text)]
    assert not naming


def test_no_file_is_large() -> None:
    large = [str(path.relative_to(ROOT)) for path in tracked_files() if path.stat().st_size > MAX_BYTES]
    assert not large


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_a_module_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: split it by idea"
    assert ast.get_docstring(ast.parse(text)), "a module starts with a docstring that says what it is for"


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_no_assert_in_the_product(path: Path) -> None:
    """``python -O`` removes asserts, so none may stand between bad input and a decision."""
    asserts = [
        node.lineno for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Assert)
    ]
    assert not asserts


def test_the_version_is_the_installed_one_and_in_the_changelog() -> None:
    assert fraudml.__version__ == version("fraudml")
    assert f"## [{fraudml.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("lock", ["base.txt", "build.txt", "dev.txt"])
def test_a_lock_pins_every_package_with_hashes_and_names_no_host(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    entries = [block for block in re.split(r"\n(?=\S)", text) if not block.startswith("#")]
    assert entries
    assert not [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]
    assert "://" not in text


def required_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0] for requirement in requirements}


def imported_packages(path: Path) -> set[str]:
    """The top-level names that a source file imports from outside the standard library and fraudml."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"fraudml"}


def test_what_is_imported_is_declared() -> None:
    """Another package's dependency may disappear with its next release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [item for name, items in project["optional-dependencies"].items() if name != "dev" for item in items]
    declared = required_names(project["dependencies"] + extras)
    distributions = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in imported_packages(path)
        if not {each.lower().replace("_", "-") for each in distributions.get(name, [name])} & declared
    }
    assert not undeclared


def test_the_locks_contain_everything_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        "base.txt": required_names(project["dependencies"]),
        "dev.txt": required_names(project["dependencies"] + project["optional-dependencies"]["dev"]) - {"fraudml"},
    }
    for lock, names in declared.items():
        text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
        locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z0-9,._-]+\])?==", text, re.MULTILINE))
        assert names <= locked, f"requirements/{lock} lacks {names - locked}: run make lock"
