"""What every model registry promises, over every adapter in ``adapters/registry``."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fraudml.adapters.registry
from fraudml.errors import (
    BundleError,
    ConfigError,
    ConflictError,
    FraudmlError,
    MissingExtra,
    NotFoundError,
    RegistryError,
)
from fraudml.models import bundle, lifecycle
from fraudml.models.registry import CHALLENGER, CHAMPION, Registry
from fraudml.models.rollout import Change, Kind, Mode, Plan, promoted
from tests.support import prepared
from tests.support.bundles import METRICS, make_bundle
from tests.support.scoring import FEATURES

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from mlflow import MlflowClient

    from fraudml.adapters.registry.apart import RegistryApart

Open = Callable[[Path], Registry]
STORES = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")


def _mlflow(home: Path) -> Registry:
    from fraudml.adapters.registry.mlflow import MlflowRegistry

    return MlflowRegistry(None, home=home, model_name="fraud")


def _apart(home: Path) -> Registry:
    from fraudml.adapters.registry.apart import RegistryApart

    class Prepared(RegistryApart):
        command = (*prepared.command(), "-m", RegistryApart.command[-1])

    OPENED.append(Prepared(None, home=home, model_name="fraud"))
    return OPENED[-1]


def _apart_from_nothing(home: Path) -> Registry:
    from fraudml.adapters.registry.apart import RegistryApart

    return RegistryApart(None, home=home, model_name="fraud")


OPENED: list[RegistryApart] = []
ADAPTERS: dict[str, Open] = {"apart": _apart, "mlflow": _mlflow}
# the same as users have them, with nothing imported before
UNPREPARED: dict[str, Open] = {"apart": _apart_from_nothing, "mlflow": _mlflow}


@pytest.fixture(autouse=True)
def _close_what_was_opened() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def test_every_adapter_is_here() -> None:
    folder = Path(fraudml.adapters.registry.__path__[0])
    assert {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")} == set(ADAPTERS)


@pytest.fixture(scope="session")
def empty_homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One empty registry of each kind; MLflow takes seconds to create its tables, so tests begin with a copy."""
    homes = {name: tmp_path_factory.mktemp(name) for name in ADAPTERS}
    for name, home in homes.items():
        assert ADAPTERS[name](home).versions() == []
    return homes


@pytest.fixture(params=sorted(ADAPTERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(kind: str, empty_homes: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_homes[kind], tmp_path / "home"))


@pytest.fixture
def registry(kind: str, home: Path) -> Registry:
    return ADAPTERS[kind](home)


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """Three bundles with different models."""
    paths = [tmp_path / f"bundle{i}" for i in range(3)]
    for i, path in enumerate(paths):
        make_bundle(path, FEATURES, bias=-float(i), family=f"linear_{i}", parameters={"depth": i, "rate": 0.1})
    return paths


def test_an_empty_registry_says_so(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.rollouts() == []
    with pytest.raises(NotFoundError, match="alias 'champion'"):
        registry.resolve(CHAMPION)
    with pytest.raises(NotFoundError, match="version 1 "):
        lifecycle.promote(registry, 1, "none is there")
    with pytest.raises(RegistryError, match="no earlier champion"):
        lifecycle.rollback(registry, "nothing to go back to")


def test_versions_count_up_and_come_newest_first(registry: Registry, bundles: list[Path]) -> None:
    registered = [registry.register(path) for path in bundles]
    assert [version.version for version in registered] == [1, 2, 3]
    assert registry.versions() == registered[::-1]
    assert [version.family for version in registered] == ["linear_0", "linear_1", "linear_2"]


def test_a_version_carries_lineage_and_flat_metrics(registry: Registry, bundles: list[Path]) -> None:
    version = registry.register(bundles[0])
    assert (version.fingerprint, version.created_at) == (FEATURES.fingerprint, "2024-05-01T00:00:00+00:00")
    numbers = {key: value for key, value in METRICS.items() if key != "money"}
    assert version.metrics == numbers | {f"money_{key}": value for key, value in METRICS["money"].items()}


def test_fetch_gives_the_bundle_back(registry: Registry, bundles: list[Path]) -> None:
    for path in bundles:
        registry.register(path)
    for number, path in enumerate(bundles, 1):
        fetched = registry.fetch(number)
        assert {f.name: f.read_bytes() for f in fetched.iterdir()} == {f.name: f.read_bytes() for f in path.iterdir()}
        bundle.load(fetched, expect=FEATURES)


@pytest.mark.parametrize("damage", ["truncate the model", "remove the manifest", "another version's bundle"])
def test_a_damaged_local_copy_is_fetched_again(registry: Registry, bundles: list[Path], damage: str) -> None:
    for path in bundles[:2]:
        registry.register(path)
    kept = registry.fetch(1)
    if damage == "truncate the model":
        (kept / bundle.MODEL_FILE).write_bytes(b"half")
    elif damage == "remove the manifest":
        (kept / bundle.MANIFEST_FILE).unlink()
    else:
        shutil.copytree(bundles[1], kept, dirs_exist_ok=True)
    again = registry.fetch(1)
    assert (again / bundle.MODEL_FILE).read_bytes() == (bundles[0] / bundle.MODEL_FILE).read_bytes()
    bundle.load(again)
    assert [path.name for path in again.parent.iterdir()] == ["1"], "no scratch files are left"


def test_a_second_process_sees_the_same(kind: str, home: Path, registry: Registry, bundles: list[Path]) -> None:
    registry.register(bundles[0])
    lifecycle.promote(registry, 1, "first")
    other = ADAPTERS[kind](home)
    assert other.versions() == registry.versions()
    assert other.rollouts() == registry.rollouts()
    assert other.resolve(CHAMPION).version == 1


def test_aliases_and_numbers_resolve(registry: Registry, bundles: list[Path]) -> None:
    registry.register(bundles[0])
    registry.register(bundles[1], aliases=(CHALLENGER,))
    assert registry.resolve(CHALLENGER).version == 2
    assert registry.resolve("1").aliases == ()
    registry.register(bundles[2], aliases=(CHALLENGER,))
    assert registry.resolve(CHALLENGER).version == 3
    assert registry.resolve("2").aliases == ()


@pytest.mark.parametrize("name", ["", "99", "0", "-1", "nobody", "../..", "a b", "\N{SUPERSCRIPT TWO}", "1.0"])
def test_unknown_names_are_not_found(registry: Registry, bundles: list[Path], name: str) -> None:
    registry.register(bundles[0])
    with pytest.raises(NotFoundError, match="there is no version"):
        registry.resolve(name)


def test_fetch_of_an_unknown_version(registry: Registry, bundles: list[Path]) -> None:
    registry.register(bundles[0])
    with pytest.raises(NotFoundError, match="version 7 "):
        registry.fetch(7)


def test_promotion_moves_the_alias_and_keeps_the_history(registry: Registry, bundles: list[Path]) -> None:
    registry.register(bundles[0])
    registry.register(bundles[1], aliases=(CHALLENGER,))
    lifecycle.promote(registry, 1, "first model", "ann")
    assert registry.resolve("1").aliases == (CHAMPION,)
    lifecycle.promote(registry, 2, "  better AP,\n 0.71 against 0.69 ", "bob")
    assert registry.resolve("2").aliases == (CHAMPION,), "no longer challenger"
    assert registry.resolve("1").aliases == ()
    history = registry.rollouts()
    assert [(r.champion, r.change.kind, r.change.by, r.change.reason) for r in history] == [
        (1, "promote", "ann", "first model"),
        (2, "promote", "bob", "better AP, 0.71 against 0.69"),
    ]
    assert history[0].revision < history[1].revision
    assert history[0].change.at <= history[1].change.at
    assert history[0].change.at.endswith("+00:00")


@pytest.mark.parametrize(
    ("reason", "problem"), [("", "needs a reason"), (" \n", "needs a reason"), ("x" * 5_000, "long")]
)
def test_a_promotion_needs_a_usable_reason(registry: Registry, bundles: list[Path], reason: str, problem: str) -> None:
    registry.register(bundles[0])
    with pytest.raises(ConfigError, match=problem):
        lifecycle.promote(registry, 1, reason)
    assert registry.rollouts() == []


def test_rollback_walks_back(registry: Registry, bundles: list[Path]) -> None:
    for path in bundles:
        registry.register(path)
    for number in (1, 2, 3):
        lifecycle.promote(registry, number, "better")
    assert lifecycle.rollback(registry, "3 is slow").champion == 2
    assert lifecycle.rollback(registry, "2 is wrong").champion == 1
    with pytest.raises(RegistryError, match="no earlier champion"):
        lifecycle.rollback(registry, "nothing before the first")
    lifecycle.promote(registry, 3, "3 is fixed")
    assert lifecycle.rollback(registry, "it was not").champion == 1, "the champion before, not the newest other"
    assert [r.champion for r in registry.rollouts()] == [1, 2, 3, 2, 1, 3, 1]
    assert registry.rollouts()[-1].change.reason == "it was not"
    assert lifecycle.rollback(registry, "straight back", to=3).champion == 3
    with pytest.raises(RegistryError, match="never been champion"):
        lifecycle.rollback(registry, "what is that", to=9)


def test_of_two_who_change_what_serves_at_once_one_is_told(kind: str, home: Path, bundles: list[Path]) -> None:
    one, other = ADAPTERS[kind](home), ADAPTERS[kind](home)
    for path in bundles:
        one.register(path)
    lifecycle.promote(one, 1, "first")
    stale = other.rollouts()[-1]
    lifecycle.start(one, Plan(Mode.canary, {2: 0.05}, "customer"), "looks good")
    change = Change(Kind.promote, "2024-05-01T00:00:00+00:00", "other", "too late")
    with pytest.raises(ConflictError, match="changed by somebody else"):
        other.revise(promoted(stale, 3, change))
    for registry in (one, other, ADAPTERS[kind](home)):
        last = registry.rollouts()[-1]
        assert (last.champion, last.versions) == (1, (1, 2))
        assert registry.resolve(CHAMPION).version == 1
    assert lifecycle.abort(other, "no need").experiment is None


def two_processes() -> Pool:
    """They begin with MLflow imported, once for all, and with nothing else of this process."""
    from fraudml.adapters.registry import _client

    _client.load_mlflow()  # with its switches, which they take over
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["fraudml.adapters.registry.mlflow", *STORES])
    return forks.Pool(2)


def _try_to_start(name: str, home: Path, version: int) -> int:
    registry = ADAPTERS[name](home)
    try:
        return lifecycle.start(registry, Plan(Mode.canary, {version: 0.1}), f"try {version}").versions[1]
    except (ConflictError, ConfigError):  # somebody else was between, or before
        return 0


def test_processes_that_start_a_rollout_at_once(kind: str, home: Path, bundles: list[Path]) -> None:
    registry = ADAPTERS[kind](home)
    for path in bundles:
        registry.register(path)
    lifecycle.promote(registry, 1, "first")
    with two_processes() as pool:
        started = pool.starmap(_try_to_start, [(kind, home, 2), (kind, home, 3)], chunksize=1)
    (winner,) = [version for version in started if version]
    assert registry.rollouts()[-1].versions == (1, winner)
    assert [rollout.change.kind for rollout in registry.rollouts()] == ["promote", "start"]


def test_a_revision_names_versions_that_are_there(registry: Registry, bundles: list[Path]) -> None:
    registry.register(bundles[0])
    lifecycle.promote(registry, 1, "first")
    with pytest.raises(NotFoundError, match="version 9 "):
        lifecycle.start(registry, Plan(Mode.ab, {9: 0.5}), "nobody there")
    with pytest.raises(ConfigError, match="its own challenger"):
        lifecycle.start(registry, Plan(Mode.ab, {1: 0.5}), "against itself")
    assert len(registry.rollouts()) == 1


def test_more_revisions_than_a_page(registry: Registry, home: Path, kind: str, bundles: list[Path]) -> None:
    for path in bundles[:2]:
        registry.register(path)
    lifecycle.promote(registry, 1, "first")
    lifecycle.start(registry, Plan(Mode.canary, {2: 0.01}), "slowly")
    for share in range(2, 23):
        lifecycle.adjust(registry, "a little more", shares={2: share / 100})
    history = ADAPTERS[kind](home).rollouts()
    assert history == registry.rollouts()
    assert len(history) == 23
    experiment = history[-1].experiment
    assert experiment is not None
    assert experiment.challengers[0].share == pytest.approx(0.22)


def test_a_deleted_version_is_gone_and_its_number_with_it(registry: Registry, home: Path, bundles: list[Path]) -> None:
    registry.register(bundles[0])
    registry.register(bundles[1])
    kept = registry.fetch(2)
    registry.delete(2)
    assert not kept.exists()
    assert [version.version for version in registry.versions()] == [1]
    with pytest.raises(NotFoundError):
        registry.fetch(2)
    with pytest.raises(NotFoundError):
        registry.delete(2)
    assert registry.register(bundles[2]).version == 3
    registry.fetch(1)


def test_a_closed_registry_can_be_asked_again(registry: Registry, bundles: list[Path]) -> None:
    registry.close()  # before it was asked at all
    registry.register(bundles[0])
    for _ in range(2):
        registry.close()
    assert registry.resolve("1").version == 1


def test_what_is_no_bundle_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        registry.register(tmp_path)
    assert registry.versions() == []


def _register(name: str, home: Path, path: Path, times: int) -> list[int]:
    registry = ADAPTERS[name](home)
    return [registry.register(path, aliases=(CHALLENGER,)).version for _ in range(times)]


def test_processes_may_register_at_the_same_time(kind: str, tmp_path: Path, bundles: list[Path]) -> None:
    """Also the very first time, when the registry itself has to be made."""
    home = tmp_path / "new"
    with two_processes() as pool:
        numbers = pool.starmap(_register, [(kind, home, path, 3) for path in bundles[:2]], chunksize=1)
    assert sorted(numbers[0] + numbers[1]) == [1, 2, 3, 4, 5, 6]
    registry = ADAPTERS[kind](home)
    assert len(registry.versions()) == 6
    assert registry.resolve(CHALLENGER).version in (numbers[0][-1], numbers[1][-1])
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_nothing_is_written_to_the_terminal(kind: str, tmp_path: Path, bundles: list[Path]) -> None:
    """From the very first call, in a process of its own, where no test framework catches warnings and logs."""
    code = f"""
        from pathlib import Path
        from fraudml.models import lifecycle
        from tests.conformance.test_registry import UNPREPARED
        registry = UNPREPARED[{kind!r}](Path({str(tmp_path / "new")!r}))
        registry.register(Path({str(bundles[0])!r}), aliases=("challenger",))
        lifecycle.promote(registry, 1, "first")
        registry.fetch(1)
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    environment = {"PATH": "", "HOME": str(tmp_path / "user"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "user").exists(), "nothing is left in the user's home either"


def _client(home: Path) -> MlflowClient:
    from mlflow import MlflowClient

    url = f"sqlite:///{home / 'registry.db'}"
    return MlflowClient(tracking_uri=url, registry_uri=url)


class TestMlflow:
    """What only concerns MLflow."""

    def test_pages_of_versions_are_put_together(
        self, empty_homes: dict[str, Path], tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fraudml.adapters.registry import mlflow

        registry = _mlflow(Path(shutil.copytree(empty_homes["mlflow"], tmp_path / "home")))
        for _ in range(5):
            registry.register(bundles[0])
        monkeypatch.setattr(mlflow, "PAGE", 2)
        assert [version.version for version in registry.versions()] == [5, 4, 3, 2, 1]

    def test_the_run_holds_parameters_and_the_report(
        self, empty_homes: dict[str, Path], tmp_path: Path, bundles: list[Path]
    ) -> None:
        from mlflow import MlflowClient

        home = Path(shutil.copytree(empty_homes["mlflow"], tmp_path / "home"))
        report = tmp_path / "report.html"
        report.write_text("<h1>report</h1>", encoding="utf-8")
        _mlflow(home).register(bundles[2], report=report)
        url = f"sqlite:///{home / 'registry.db'}"
        client = MlflowClient(tracking_uri=url, registry_uri=url)
        found = client.get_run(str(client.get_model_version("fraud", "1").run_id))
        assert found.info.status == "FINISHED"
        assert found.data.params.items() >= {"depth": "2", "rate": "0.1", "seed": "0", "rows": "5000"}.items()
        assert found.data.metrics.items() >= {"roc_auc": 0.9, "money_saved_per_day": 123.0}.items()
        assert found.data.tags["fraudml.data_hash"] == "d" * 64
        assert {item.path for item in client.list_artifacts(found.info.run_id)} == {"bundle", "report.html"}
        assert list(home.glob("artifacts/*/artifacts/report.html"))

    def test_a_version_whose_files_cannot_be_deleted_stays(
        self, empty_homes: dict[str, Path], tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Libraries of object stores raise what they like."""
        registry = _mlflow(Path(shutil.copytree(empty_homes["mlflow"], tmp_path / "home")))
        registry.register(bundles[0])

        def fails(*_: object) -> None:
            raise RuntimeError("no answer from the object store")

        repository = "mlflow.store.artifact.artifact_repository_registry.get_artifact_repository"
        monkeypatch.setattr(repository, fails)
        with pytest.raises(RegistryError, match="no answer from the object store"):
            registry.delete(1)
        monkeypatch.undo()
        assert [version.version for version in registry.versions()] == [1]
        registry.delete(1)
        assert registry.versions() == []

    def test_a_damaged_artifact_is_not_served(
        self, empty_homes: dict[str, Path], tmp_path: Path, bundles: list[Path]
    ) -> None:
        home = Path(shutil.copytree(empty_homes["mlflow"], tmp_path / "home"))
        registry = _mlflow(home)
        registry.register(bundles[0])
        (stored,) = home.glob("artifacts/*/artifacts/bundle/model.onnx")
        stored.write_bytes(b"rot")
        with pytest.raises(BundleError, match=r"copy of version 1 .* is damaged"):
            registry.fetch(1)

    @pytest.mark.parametrize("document", ["", "{", '{"champion": "x"}', '{"champion": 1, "change": {}}', "[" * 5_000])
    def test_a_damaged_document_is_an_error_of_the_registry(
        self, empty_homes: dict[str, Path], tmp_path: Path, bundles: list[Path], document: str
    ) -> None:
        home = Path(shutil.copytree(empty_homes["mlflow"], tmp_path / "home"))
        registry = _mlflow(home)
        registry.register(bundles[0])
        lifecycle.promote(registry, 1, "first")
        _client(home).create_model_version("fraud.rollout", "x", tags={"fraudml.rollout": document})
        with pytest.raises(RegistryError, match="revision 2 of the rollout document"):
            registry.rollouts()

    def test_an_alias_that_only_mlflow_knows_serves_nobody(
        self, empty_homes: dict[str, Path], tmp_path: Path, bundles: list[Path]
    ) -> None:
        home = Path(shutil.copytree(empty_homes["mlflow"], tmp_path / "home"))
        registry = _mlflow(home)
        for path in bundles[:2]:
            registry.register(path)
        lifecycle.promote(registry, 1, "first")
        _client(home).set_registered_model_alias("fraud", CHAMPION, "2")
        assert registry.resolve(CHAMPION).version == 1
        assert registry.resolve("2").aliases == ()

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("foo://somewhere", "unsupported URI"),
            ("mysql+nosuchdriver://me:secret@127.0.0.1/x", "mysql"),
            ("sqlite:////dev/null/x.db", "registry at sqlite:////dev/null/x.db failed"),
        ],
    )
    def test_unusable_urls(self, tmp_path: Path, url: str, problem: str) -> None:
        from fraudml.adapters.registry.mlflow import MlflowRegistry

        with pytest.raises(RegistryError, match=problem) as caught:
            MlflowRegistry(url, home=tmp_path, model_name="fraud").versions()
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_unreachable_server_is_said_without_the_password(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fraudml.adapters.registry.mlflow import MlflowRegistry

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the user's own switches count
        with pytest.raises(RegistryError, match=r"registry at http://127\.0\.0\.1:9 failed") as caught:
            MlflowRegistry("http://me:secret@127.0.0.1:9", home=tmp_path, model_name="fraud").versions()
        assert "secret" not in str(caught.value)

    def test_a_database_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "registry.db").write_bytes(b"no database " * 100)
        with pytest.raises(RegistryError, match="file is not a database"):
            _mlflow(tmp_path).versions()

    def test_a_home_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RegistryError, match=r"registry\.db failed: .* exists"):
            _mlflow(tmp_path / "file").versions()

    @pytest.mark.parametrize("name", ["", "o'x", "../up", "a/b", ".hidden", "a b"])
    def test_model_names_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        from fraudml.adapters.registry.mlflow import MlflowRegistry

        with pytest.raises(RegistryError, match="model name"):
            MlflowRegistry(None, home=tmp_path, model_name=name)

    def test_the_switches_are_known_to_mlflow(self) -> None:
        """A release that renames one would print on the terminal, or call home, without any error."""
        from mlflow import environment_variables

        from fraudml.adapters.registry._client import _SWITCHES

        of_mlflow = {name for name in _SWITCHES if name.startswith("MLFLOW_")}
        assert len(of_mlflow) >= 5
        assert {name for name in of_mlflow if not hasattr(environment_variables, name)} == set()

    def test_a_missing_driver_names_what_to_install(self) -> None:
        from fraudml.adapters.registry._client import failure

        missing: FraudmlError = failure("postgresql://x", ModuleNotFoundError("no", name="psycopg"))
        assert isinstance(missing, MissingExtra)
        assert "pip install 'fraudml[postgres]'" in str(missing)
        assert "pip install pymysql" in str(failure("mysql://x", ModuleNotFoundError("no", name="pymysql")))
