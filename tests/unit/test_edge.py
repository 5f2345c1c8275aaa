"""``fraudml.edge`` alone: an interpreter that has NumPy and ONNX Runtime and nothing else."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml import edge
from fraudml.decisions.policy import Policy
from fraudml.edge import EdgeError, EdgeModel
from fraudml.features.derive import to_model
from fraudml.models import bundle
from fraudml.models.runtime import Runtime
from fraudml.training import packing
from fraudml.training.calibrate import Calibrator
from fraudml.training.export import export
from fraudml.training.families import get_family
from tests.support.bundles import linear_model, make_bundle
from tests.support.scoring import FEATURES
from tests.support.training import LinearModel, make_dataset, make_result

NAMES = FEATURES.input_names
# Runs a file as a program, with the folder in the first argument as the only place of packages.
RUN = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NumPy, ONNX Runtime, a copy of the one file, and no more."""
    place = tmp_path_factory.mktemp("device")
    for name in ("numpy", "onnxruntime"):
        package = Path(str(importlib.util.find_spec(name).origin)).parent  # type: ignore[union-attr]
        for part in (package, package.with_name(f"{name}.libs")):
            if part.exists():
                (place / part.name).symlink_to(part)
    shutil.copy(edge.__file__, place / "edge.py")
    return place


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of boosted trees over data with holes."""
    data = make_dataset(3_000)
    data.x[::5, 1] = np.nan
    model = get_family("xgboost").fit(data.x, data.y, feature_names=NAMES, params={"n_estimators": 60})
    place = tmp_path_factory.mktemp("trees") / "bundle"
    manifest = make_bundle(place, FEATURES, family="xgboost")
    content = export(model, Calibrator(1.2, -0.3), NAMES)
    replace_model(place, manifest, content)
    return place


def replace_model(place: Path, manifest: bundle.Manifest, content: bytes) -> None:
    inputs = bundle.as_matrix(manifest.reference_inputs, len(NAMES))
    changed = msgspec.structs.replace(
        manifest,
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        reference_scores=Runtime(content).score(inputs).tolist(),
    )
    bundle.save(place, content, changed)


def alone(device: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python without the site's packages: ``-I`` ignores the environment, ``-S`` the installed packages."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUN, str(device), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=device,
    )


def test_nothing_else_can_be_imported_there(device: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    others = ["msgspec", "fraudml", "onnx", "pyarrow", "google.protobuf", "flatbuffers"]
    program.write_text(
        "import importlib, numpy, onnxruntime, edge\n"
        f"for name in {others!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ModuleNotFoundError:\n"
        "        continue\n"
        "    print(name)\n"
    )
    done = alone(device, str(program))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_scores_there_are_those_of_fraudml_bit_for_bit(device: Path, trees: Path, tmp_path: Path) -> None:
    vectors = make_dataset(2_345, seed=1).x
    vectors[::3, 2] = np.nan
    np.save(tmp_path / "vectors.npy", vectors)
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy, sys, edge\n"
        "model = edge.EdgeModel(sys.argv[1])\n"
        "numpy.save(sys.argv[3], model.score(numpy.load(sys.argv[2])))\n"
    )
    done = alone(device, str(program), str(trees), str(tmp_path / "vectors.npy"), str(tmp_path / "scores.npy"))
    assert done.returncode == 0, done.stderr
    scores = np.load(tmp_path / "scores.npy")
    assert scores.dtype == np.float64
    assert scores.tobytes() == bundle.load(trees).runtime.score(vectors).tobytes()


def test_the_file_is_a_program(device: Path, trees: Path) -> None:
    rows = [{"amount": 12.5, NAMES[1]: None}, {}, {NAMES[2]: 3}]
    typed = "\n".join(map(json.dumps, rows)) + "\n\n"
    done = alone(device, str(device / "edge.py"), str(trees), typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    model = EdgeModel(trees)
    expected = [float(model.score_rows([row])[0]) for row in rows]
    assert [each["score"] for each in found] == expected
    assert [each["action"] for each in found] == [model.action(score) for score in expected]


def test_a_broken_line_is_named(device: Path, trees: Path) -> None:
    for line, reason in [("{", "line 2: "), ("[1]", "line 2: expected an object"), ('{"amuont": 1}', "is it 'amount'")]:
        done = alone(device, str(device / "edge.py"), str(trees), typed="{}\n" + line)
        assert done.returncode == 2
        assert len(done.stdout.splitlines()) == 1, "what came before is scored"
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1


def test_usage_and_a_folder_that_is_no_bundle(device: Path, tmp_path: Path) -> None:
    assert "usage" in alone(device, str(device / "edge.py")).stderr
    done = alone(device, str(device / "edge.py"), str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no bundle" in done.stderr


def test_bytes_that_are_no_text_are_told(
    trees: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), "utf-8"))
    assert edge.main([str(trees)]) == 2
    assert capsys.readouterr().err.startswith("edge: 'utf-8' codec can't decode")


def test_main_in_this_process(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge.main([]) == 2
    assert edge.main([str(trees / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_a_trained_bundle_is_read(tmp_path: Path) -> None:
    result = make_result(make_dataset(3_000))
    packing.pack(result, result.candidates[0], tmp_path)
    rows = result.data.x[:500]
    assert EdgeModel(tmp_path).score(rows).tobytes() == bundle.load(tmp_path).runtime.score(rows).tobytes()


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("linear") / "bundle"
    make_bundle(place, FEATURES, weights=[1, -1, 0, 0, 0], bias=-2)
    return place


@given(st.lists(st.lists(st.none() | st.floats(allow_nan=True), min_size=5, max_size=5), max_size=4))
def test_rows_by_name_are_the_vectors(linear: Path, values: list[list[float | None]]) -> None:
    rows: list[dict[str, Any]] = [dict(zip(NAMES, row, strict=True)) for row in values]
    vectors = np.array([[np.nan if v is None else v for v in row] for row in values], np.float64).reshape(-1, 5)
    model = EdgeModel(linear)
    np.testing.assert_array_equal(model.score_rows(rows), model.score(to_model(vectors)))


def test_what_a_row_may_hold(linear: Path) -> None:
    model = EdgeModel(linear)
    assert model.names == NAMES
    for value in (True, np.float32(1), np.int64(1), 1):
        assert model.score_rows([{"amount": value}]) == model.score_rows([{"amount": 1.0}])
    assert model.score_rows([{"amount": 10**400}]) == 1
    assert len(model.score_rows([])) == 0
    with pytest.raises(EdgeError, match="must be a number, not str"):
        model.score_rows([{"amount": "12"}])
    with pytest.raises(EdgeError, match=r"'amout' is no input of this model; is it 'amount'\?"):
        model.score_rows([{"amout": 1}])
    with pytest.raises(EdgeError, match=r"shape \(2, 3\)"):
        model.score(np.zeros((2, 3), np.float32))
    with pytest.raises(EdgeError, match="cannot score"):
        model.score(np.zeros((2, 5)))  # type: ignore[arg-type]


@given(st.none() | st.floats(0, 1) | st.just(float("nan")), st.floats(0, 1.2), st.floats(0, 1.2))
def test_actions_are_those_of_the_policy(linear: Path, score: float | None, one: float, other: float) -> None:
    model = EdgeModel(linear)
    model.review, model.decline = sorted((one, other))
    policy = Policy(model.review, model.decline)
    known = None if score is None or np.isnan(score) else score
    assert model.action(score) == policy.action(known).value


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(place: Path) -> None:
        document = json.loads((place / "manifest.json").read_bytes())
        change(document)
        (place / "manifest.json").write_text(json.dumps(document))

    return edit


def with_wrong_width(place: Path) -> None:
    replace_model(place, bundle.read_manifest(place), linear_model([1, 1, 1, 1, 1], 0))
    edited(lambda d: d["features"].append({**d["features"][0], "name": "one_more"}))(place)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda place: (place / "manifest.json").unlink(), "is no bundle"),
    "manifest cut": (lambda place: (place / "manifest.json").write_text("{"), "is corrupt"),
    "manifest of another kind": (lambda place: (place / "manifest.json").write_text("[]"), "has format None"),
    "newer format": (edited(lambda d: d.update(format_version=2)), "has format 2; this file reads format 1"),
    "no features": (edited(lambda d: d.pop("features")), "is corrupt"),
    "thresholds cross": (edited(lambda d: d["thresholds"].update(review=0.95)), "must rise"),
    "no model": (lambda place: (place / "model.onnx").unlink(), "cannot read model.onnx"),
    "model cut": (lambda place: (place / "model.onnx").write_bytes(b"x"), "SHA-256"),
    "other scores": (edited(lambda d: d.update(reference_scores=[0.5] * 4)), "does not give the reference scores"),
    "no references": (edited(lambda d: d.update(reference_scores=[], reference_inputs=[])), "are missing"),
    "fewer scores": (edited(lambda d: d["reference_scores"].pop()), "are missing"),
    "another width": (with_wrong_width, "is corrupt"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_bundle_that_must_not_serve(broken: str, linear: Path, tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(linear, place)
    change, reason = BROKEN[broken]
    change(place)
    with pytest.raises(EdgeError, match=reason) as caught:
        EdgeModel(place)
    assert "\n" not in str(caught.value)


def test_an_onnx_file_that_is_none(linear: Path, tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(linear, place)
    (place / "model.onnx").write_bytes(b"no model")
    edited(lambda d: d.update(onnx_sha256=hashlib.sha256(b"no model").hexdigest()))(place)
    with pytest.raises(EdgeError, match="cannot load the model"):
        EdgeModel(place)


def test_a_model_of_another_kind(linear: Path, tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(linear, place)
    manifest = bundle.read_manifest(place)
    other = LinearModel((1.0, 0.0, 0.0, 0.0, 0.0)).to_onnx().SerializeToString()
    (place / "model.onnx").write_bytes(other)
    edited(lambda d: d.update(onnx_sha256=hashlib.sha256(other).hexdigest()))(place)
    assert manifest.family == "linear"
    with pytest.raises(EdgeError, match="must read 'features' and give 'probability'"):
        EdgeModel(place)
