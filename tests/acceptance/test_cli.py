"""Every command as a user runs it: help, results for people and for machines, and mistakes of every kind."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
import yaml
from pydantic import SecretStr

from fraudml import __version__, wiring
from fraudml import project as projects
from fraudml.cli.main import app
from fraudml.decisions.record import Decision, LabelReport
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.settings import Settings
from tests.support.commands import fraudml, refused, well
from tests.support.scoring import T0, decision
from tests.support.servers import postgres

ROWS = 8_000


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group below this one, and of itself."""
    yield path
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from commands(command.get_command(None, name), (*path, name))


COMMANDS = sorted(commands(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with registered models, made by commands alone; tests must leave it as it is."""
    directory = tmp_path_factory.mktemp("trained")
    well(
        "simulate", "transactions.csv", "--rows", str(ROWS), "--customers", "60", "--fraud-rate", "0.05", cwd=directory
    )
    well("init", "transactions.csv", "--yes", cwd=directory)
    families = ("--family", "logistic_regression", "--family", "random_forest")
    (directory / "train.json").write_text(well("train", *families, "--json", cwd=directory).out, encoding="utf-8")
    return directory


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """The trained project for a test that changes it. Artifacts are at the first place: the registry knows them."""
    copy = tmp_path / "project"
    shutil.copytree(trained, copy)
    return copy


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], tmp_path: Path) -> None:
    done = well(*words, "--help", cwd=tmp_path)
    assert "Usage: " in done.out
    assert not list(tmp_path.iterdir()), "--help must not write anything"


def test_all_commands_are_there() -> None:
    assert {words[0] for words in COMMANDS if words} == {
        "init",
        "train",
        "retrain",
        "score",
        "serve",
        "worker",
        "stream",
        "replay",
        "dlq",
        "features",
        "models",
        "rollout",
        "decisions",
        "drift",
        "performance",
        "report",
        "monitor",
        "profile",
        "keys",
        "simulate",
        "demo",
        "bench",
        "db",
        "doctor",
        "migrate",
        "warehouse",
        "schema",
    }


def test_version(tmp_path: Path) -> None:
    assert well("--version", cwd=tmp_path).out == f"fraudml {__version__}\n"


@pytest.mark.parametrize("words", COMMANDS[1:], ids=" ".join)
def test_an_unknown_option_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    done = fraudml(*words, "--colour", "red", cwd=tmp_path)
    assert done.code == 2
    assert "--colour" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_an_unknown_command_is_named(tmp_path: Path) -> None:
    done = fraudml("paint", cwd=tmp_path)
    assert done.code == 2
    assert "paint" in done.err
    assert "Traceback" not in done.err


NEEDS_A_PROJECT = (
    ("train",),
    ("retrain",),
    ("score",),
    ("serve",),
    ("features", "list"),
    ("features", "sql"),
    ("features", "audit"),
    ("keys", "list"),
    ("keys", "create", "laptop"),
    ("schema", "show"),
    ("schema", "diff", "fraudml.yaml"),
    ("bench", "serve"),
    ("drift",),
    ("performance",),
    ("report",),
    ("monitor",),
)


@pytest.mark.parametrize("words", NEEDS_A_PROJECT, ids=" ".join)
def test_a_missing_project_is_named_with_what_to_do(words: tuple[str, ...], tmp_path: Path) -> None:
    said = refused(*words, cwd=tmp_path)
    assert "fraudml.yaml" in said
    assert "fraudml init" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("schema: [unclosed", "not valid YAML"),
        ("schema: {}\nfeatures: []", "event_time"),
        ("schema: {event_time: {column: t}}\nfeatures: []\ncolour: red", "colour"),
        ("schema: {event_time: {column: t}}\nfeatures: [{name: a, kind: windoww}]", "windoww"),
        ("version: 9\nschema: {event_time: {column: t}}\nfeatures: [{name: h, kind: time, of: hour}]", "fraudml.yaml"),
        ("- just\n- a list", "fraudml.yaml"),
        ("", "fraudml.yaml"),
    ],
)
def test_a_broken_project_file_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "fraudml.yaml").write_text(text, encoding="utf-8")
    assert reason in refused("features", "list", cwd=tmp_path)


def test_a_project_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fraudml.yaml").write_bytes(b"\x00\xff\xfe\x80 not text")
    assert "fraudml.yaml" in refused("train", cwd=tmp_path)


@pytest.mark.parametrize("line", ["MAX_BATCH=many", "LOG_LEVEL=loud", "MEMORY_LIMIT=much", "HASH_KEY="])
def test_a_wrong_setting_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"FRAUDML_{line}\n", encoding="utf-8")
    assert f"FRAUDML_{line.partition('=')[0]}" in refused("models", "list", cwd=tmp_path)


def test_settings_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"FRAUDML_HOST=\xff\xfe\n")
    assert ".env" in refused("models", "list", cwd=tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.csv", None),
        ("missing-*.parquet", None),
        ("empty.csv", b""),
        ("header.csv", b"id,time,amount\n"),
        ("image.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
        ("text.parquet", b"this is no Parquet"),
        ("cut.csv.gz", gzip.compress(b"id,time,amount\n1,2024-05-01T00:00:00Z,3\n" * 100, mtime=0)[:40]),
    ],
    # by file, as no process may name a test unlike another: pytest-xdist then refuses to run any
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_init_refuses_what_is_no_table(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = refused("init", name, "--yes", cwd=tmp_path)
    assert Path(name).stem.partition("-")[0].partition(".")[0] in said
    assert not (tmp_path / "fraudml.yaml").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("train", "missing.csv"), "missing.csv"),
        (("train", "--family", "crystal_ball"), "crystal_ball"),
        (("train", "--fast", "logistic"), "--family cascade"),
        (("train", "--family", "cascade", "--accurate", "crystal_ball"), "crystal_ball"),
        (("train", "--family", "cascade", "--recall-loss", "half"), "write 0.5% or 0.005"),
        (("train", "--family", "cascade", "--tune"), "--tune"),
        (("score", "missing.csv"), "missing.csv"),
        (("score", "--model", "99"), "99"),
        (("models", "show", "99"), "99"),
        (("models", "show", "nickname"), "nickname"),
        (("models", "promote", "99", "--reason", "a test"), "99"),
        (("models", "promote", "1", "--reason", " "), "reason"),
        (("models", "rollback", "--reason", "a test"), "earlier champion"),
        (("models", "compress", "99"), "99"),
        (("models", "compress", "1", "--features", "9", "--weights", "int8"), "choose one"),
        (("models", "compress", "1", "--features", "9", "--by-history"), "--by-history"),
        (("features", "sql", "--dialect", "cobol"), "cobol"),
        (("features", "audit"), "score something first"),
        (("keys", "create", "bad name"), "bad name"),
        (("keys", "revoke", "nobody"), "nobody"),
        (("simulate", "out.xlsx"), "out.xlsx"),
        (("simulate", "no/such/folder/out.csv"), "no/such/folder"),
        (("simulate", "--rows", "1"), "rows"),
        (("serve", "--project", "other.yaml"), "other.yaml"),
        (("features", "list", "--project", "other.yaml"), "other.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_named_in_one_line(words: tuple[str, ...], reason: str, trained: Path) -> None:
    assert reason in refused(*words, cwd=trained)


def test_a_first_model_has_to_be_trained_before_it_scores(trained: Path, tmp_path: Path) -> None:
    for name in ("fraudml.yaml", "transactions.csv"):
        shutil.copy(trained / name, tmp_path)
    for words in (("score",), ("serve", "--port", "0")):
        assert "fraudml train" in refused(*words, cwd=tmp_path)


def test_init_replaces_a_project_only_when_told_to(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "transactions.csv", tmp_path)
    project_file = tmp_path / "fraudml.yaml"
    project_file.write_text("mine: true\n", encoding="utf-8")
    assert "--yes" in refused("init", "transactions.csv", "--json", cwd=tmp_path)
    assert fraudml("init", "transactions.csv", cwd=tmp_path).code != 0  # it asks, and nobody answers
    assert project_file.read_text(encoding="utf-8") == "mine: true\n"
    made = well("init", "transactions.csv", "--yes", "--json", cwd=tmp_path).json
    assert made["rows"] == len((tmp_path / "transactions.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert project_file.read_text(encoding="utf-8") == (trained / "fraudml.yaml").read_text(encoding="utf-8")


def test_the_result_of_train_is_json(trained: Path) -> None:
    result = json.loads((trained / "train.json").read_text(encoding="utf-8"))
    best = result["candidates"][0]
    assert {candidate["family"] for candidate in result["candidates"]} == {"logistic_regression", "random_forest"}
    assert best["aliases"] == ["champion"]
    assert best["metrics"]["average_precision"] > 3 * best["metrics"]["frauds"] / best["metrics"]["rows"]
    assert (trained / result["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_models_for_people_and_for_machines(trained: Path) -> None:
    versions = well("models", "list", "--json", cwd=trained).json
    assert [version["version"] for version in versions] == [2, 1]
    champion = well("models", "show", "--json", cwd=trained).json
    assert champion["version"] == next(v["version"] for v in versions if "champion" in v["aliases"])
    shown = well("models", "list", cwd=trained).out
    assert all(version["family"] in shown for version in versions)


def test_a_cascade_is_trained_shown_and_scores_like_any_model(project: Path) -> None:
    parts = ("--fast", "logistic", "--accurate", "random_forest", "--recall-loss", "60%")
    (trained,) = well("train", "--family", "cascade", *parts, "--json", cwd=project).json["candidates"]
    cascade = trained["cascade"]
    assert (cascade["fast"], cascade["accurate"]) == ("logistic_regression", "random_forest")
    assert 0 < cascade["fast_share_valid"] <= 1
    assert trained["metrics"]["fast_share"] == cascade["fast_share_test"]
    assert [each["batch"] for each in cascade["times"]] == [1, 256]
    version = str(trained["version"])
    assert well("models", "show", version, "--json", cwd=project).json["cascade"] == cascade
    assert "answered by the fast stage" in well("models", "show", version, cwd=project).out
    scored = well("score", "--model", version, "-o", "scored.csv", "--json", cwd=project).json
    assert scored["rows"] > 0


def test_promote_and_roll_back(trained: Path, project: Path) -> None:
    first = well("models", "show", "--json", cwd=project).json["version"]
    other = 3 - first
    assert well("models", "promote", str(other), "--reason", "try it", "--json", cwd=project).json["version"] == other
    assert well("models", "rollback", "--reason", "worse", "--json", cwd=project).json["version"] == first
    history = well("models", "show", "--json", cwd=project).json["promotions"]
    assert [entry["reason"] for entry in history][-1] == "worse"
    assert well("models", "show", "--json", cwd=trained).json["version"] == first


def test_a_compressed_version_is_compared_and_registered(project: Path) -> None:
    versions = {each["family"]: each["version"] for each in well("models", "list", "--json", cwd=project).json}
    forest = str(versions["random_forest"])
    found = well("models", "compress", forest, "--tolerance", "0.05", "--by-history", "--json", cwd=project).json
    assert (found["source"], found["version"]) == (int(forest), 3)
    assert found["after"]["size_bytes"] < found["before"]["size_bytes"]
    assert set(found["after"]["us_per_row"]) == {"1", "256"}
    shown = well("models", "show", "3", "--json", cwd=project).json
    assert shown["aliases"] == []
    assert shown["compression"] == found["compression"]
    assert (shown["compression"]["source"], shown["compression"]["method"]) == (forest, "prune")
    table = well("models", "compress", str(versions["logistic_regression"]), cwd=project).out
    for word in ("model.onnx, bytes", "us per row, 256 at a time", "average precision", "saved per day", "points"):
        assert word in table
    assert "float16" in well("models", "show", "4", cwd=project).out
    assert "has none" in refused("models", "compress", forest, "--weights", "int8", cwd=project)
    assert "not 0" in refused("models", "compress", forest, "--tolerance", "0", cwd=project)


def test_score_writes_a_decision_for_every_row(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    summary = well("score", "-o", str(out), "--json", cwd=trained).json
    table = pq.read_table(out)
    assert table.column_names == ["transaction_id", "event_time", "score", "action", "model_version"]
    assert summary["rows"] == table.num_rows == sum(summary["actions"].values())
    assert summary["rejected"] == 0
    scores = table.column("score").to_pylist()
    assert all(0 <= score <= 1 for score in scores)
    frauds = _frauds(trained / "transactions.csv")
    found = dict(zip(table.column("transaction_id").to_pylist(), scores, strict=True))
    genuine = [score for key, score in found.items() if key not in frauds]
    assert sum(found[key] for key in frauds) / len(frauds) > 5 * sum(genuine) / len(genuine)


def _frauds(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    place = lines[0].split(",").index("is_fraud")
    return {fields[0] for fields in (line.split(",") for line in lines[1:]) if fields[place] == "1"}


def test_features_are_listed_and_printed_as_sql(trained: Path) -> None:
    features = well("features", "list", "--json", cwd=trained).json
    declared = yaml.safe_load((trained / "fraudml.yaml").read_text(encoding="utf-8"))["features"]
    assert [feature["name"] for feature in features["features"]] == [feature["name"] for feature in declared]
    assert "SELECT" in well("features", "sql", cwd=trained).out.upper()


def test_keys_are_shown_once(project: Path) -> None:
    made = well("keys", "create", "laptop", "--scope", "read", "--json", cwd=project).json
    assert made["key"].startswith("fml_")
    assert made["scopes"] == ["read"]
    listed = well("keys", "list", "--json", cwd=project)
    assert made["key"] not in listed.out
    assert [key["name"] for key in listed.json] == ["laptop"]
    assert "laptop" in refused("keys", "create", "laptop", cwd=project)
    well("keys", "revoke", "laptop", cwd=project)
    assert well("keys", "list", "--json", cwd=project).json[0]["revoked"]


def test_simulate_tells_what_it_wrote(tmp_path: Path) -> None:
    made = well("simulate", "a.parquet", "--rows", "2000", "--truth", "--json", cwd=tmp_path).json
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == made["rows"]
    assert sum(made["patterns"].values()) == made["frauds"]
    again = well("simulate", "b.parquet", "--rows", "2000", "--truth", "--json", cwd=tmp_path).json
    assert again | {"path": ""} == made | {"path": ""}


def broken(trained: Path, count: int) -> tuple[str, dict[int, str]]:
    """The first thousand rows with some broken, and the reason to expect for each line number."""
    lines = (trained / "transactions.csv").read_text(encoding="utf-8").splitlines()[:1_001]
    names = lines[0].split(",")

    def with_value(line: int, name: str, value: str) -> None:
        fields = lines[line - 1].split(",")
        fields[names.index(name)] = value
        lines[line - 1] = ",".join(fields)

    expected: dict[int, str] = {}
    mistakes: list[tuple[str, str, str]] = [
        ("event_time", "yesterday", "event_time"),
        ("amount", "-5.00", "amount"),
        ("amount", "much", "amount"),
        ("transaction_id", "", "transaction_id"),
        ("transaction_id", lines[1].split(",")[0], "transaction_id"),
    ]
    for i in range(count):
        name, value, reason = mistakes[i % len(mistakes)]
        line = 10 + 7 * i
        with_value(line, name, value)
        expected[line] = reason
    return "\n".join(lines) + "\n", expected


def test_broken_rows_are_rejected_with_line_and_reason(trained: Path, project: Path) -> None:
    text, expected = broken(trained, 5)
    (project / "broken.csv").write_text(text, encoding="utf-8")
    summary = well("score", "broken.csv", "--json", cwd=project).json
    assert summary["rejected"] == len(expected)
    assert summary["rows"] == 1_000 - len(expected)
    rejects = (project / ".fraudml" / "rejects" / "score.csv").read_text(encoding="utf-8").splitlines()
    assert len(rejects) == 1 + len(expected)
    for line, reason in expected.items():
        assert any(f",{line}," in reject and reason in reject for reject in rejects), (line, reason, rejects)
    said = well("score", "broken.csv", cwd=project).err
    assert f"{len(expected)} of 1,000 rows were refused" in said


def test_too_many_broken_rows_are_an_error(trained: Path, project: Path) -> None:
    text, _ = broken(trained, 100)
    (project / "broken.csv").write_text(text, encoding="utf-8")
    said = refused("score", "broken.csv", cwd=project)
    assert "100" in said
    assert not (project / "scores.parquet").exists()


def bundle_files(project: Path) -> list[Path]:
    return [path for path in (project / ".fraudml").rglob("model.onnx") if path.is_file()]


def test_a_corrupt_bundle_is_refused_with_the_reason(tmp_path: Path, trained: Path) -> None:
    champion = well("models", "show", "--json", cwd=trained).json["version"]
    files = bundle_files(trained)
    kept = {path: path.read_bytes() for path in files}
    try:
        for path in files:  # the registry's copy too: the local one alone would be fetched again
            path.write_bytes(path.read_bytes()[:-20] + b"\x00" * 20)
        said = refused("score", "--model", str(champion), "-o", str(tmp_path / "s.parquet"), cwd=trained)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert "damaged" in said
    assert not (tmp_path / "s.parquet").exists()


def test_a_bundle_of_other_features_is_refused(project: Path) -> None:
    file = project / "fraudml.yaml"
    declared: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    declared["features"] = declared["features"][:-1]
    file.write_text(yaml.safe_dump(declared), encoding="utf-8")
    said = refused("score", cwd=project)
    assert "another FeatureSet" in said


def test_a_log_is_migrated_and_compared(project: Path) -> None:
    well("keys", "create", "laptop", cwd=project)
    done = well("migrate", "--to", "sqlite:///moved.db", "--json", cwd=project)
    assert {**done.json, "sha256": ""} == {"copied": 0, "decisions": 0, "labels": 0, "keys": 1, "sha256": ""}
    assert "same database" in refused("migrate", cwd=project)


def test_a_log_with_several_writers_is_migrated_while_they_write_and_again_after(
    project: Path, postgres_server: str
) -> None:
    schema = projects.read(project / "fraudml.yaml").schema
    urls = [postgres.new_database(postgres_server) for _ in "12"]

    def made(number: int, arrival: int) -> Decision:
        nothing = tuple(None for _ in schema.attribute_names)
        event = Transaction(f"t{number}", T0, tuple("x" for _ in schema.entity_names), 100, nothing)
        return decision(event, arrival)

    with closing(wiring.decision_log(Settings(_env_file=None, database_url=SecretStr(urls[0])), schema)) as source:
        source.claim(shared=True)
        source.append([made(number, 100 * number) for number in range(1, 11)])
        source.append_labels([LabelReport(Label("t1", True, T0), 5_000)])
        told = fraudml("migrate", "--from", urls[0], "--to", urls[1], cwd=project)
        assert told.code == 3, told.err
        assert "10 decisions copied" in told.err
        source.append([made(11, 50), made(12, 450)])  # by another writer, which was slow
        source.append_labels([LabelReport(Label("t11", True, T0), 4_000)])
    done = well("migrate", "--from", urls[0], "--to", urls[1], "--json", cwd=project)
    assert {**done.json, "sha256": ""} == {"copied": 2, "decisions": 12, "labels": 2, "keys": 0, "sha256": ""}
