"""A model server in place of the local copy: right, wrong, gone, slow, back again; MLServer, and worse ones."""

from __future__ import annotations

import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fraudml import wiring
from fraudml.adapters.model_server import _facts
from fraudml.adapters.model_server.open_inference import OpenInferenceModel
from fraudml.decisions.circuit import Circuit
from fraudml.decisions.model import Model
from fraudml.decisions.model_server import ServedModel
from fraudml.decisions.scorer import Scorer
from fraudml.decisions.servers import ServerFacts, Trouble
from fraudml.errors import ConfigError, ModelServerError
from fraudml.models import bundle as bundles
from fraudml.models import lifecycle
from fraudml.models.bundle import Bundle
from fraudml.monitoring.metrics import Metrics
from fraudml.settings import Settings
from fraudml.wiring.backends import check_model_server, model_server
from tests.support import prepared
from tests.support.bundles import linear_model, make_bundle
from tests.support.commands import fraudml
from tests.support.scoring import FEATURES, SCHEMA, ReferenceStore, transaction
from tests.support.servers.inference import InferenceServer, Reply, answer
from tests.support.servers.mlserver import MlServer
from tests.support.waiting import until

WIDTH = len(FEATURES.inputs)
PATIENT_S, HASTY_S = 20.0, 0.2
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder, FEATURES)
    return bundles.load(folder, version="1")


@pytest.fixture(scope="module")
def mlserver(bundle: Bundle) -> Iterator[MlServer]:
    server = MlServer(model_of(bundle))
    yield server
    server.close()


@pytest.fixture
def server(bundle: Bundle) -> Iterator[InferenceServer]:
    made = InferenceServer(lambda vectors: bundle.runtime.score(vectors).astype(np.float32))
    yield made
    made.close()


def model_of(bundle: Bundle) -> bytes:
    assert bundle.directory is not None
    return (bundle.directory / "model.onnx").read_bytes()


def vectors(rows: int, seed: int = 1) -> Vectors:
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    made[rng.random(made.shape) < 0.2] = np.nan
    return made


def served(url: str, bundle: Bundle, timeout_s: float = PATIENT_S, circuit: Circuit | None = None) -> ServedModel:
    made = ServedModel(OpenInferenceModel(url, WIDTH, timeout_s), bundle, circuit or Circuit(0.01, 0.01))
    made.check()
    return made


def falls_back(model: ServedModel, bundle: Bundle, rows: int = 3) -> None:
    """The local copy scores, and it is told."""
    asked = vectors(rows)
    np.testing.assert_array_equal(model.score(asked), bundle.runtime.score(asked))
    assert model.take_fell_back()
    assert not model.take_fell_back()


def is_used(model: ServedModel, bundle: Bundle) -> bool:
    asked = vectors(2)
    np.testing.assert_allclose(model.score(asked), bundle.runtime.score(asked), atol=1e-6)
    return not model.take_fell_back()


# --- the real one


def test_mlserver_gives_the_bundles_scores_and_takes_missing_values(mlserver: MlServer, bundle: Bundle) -> None:
    model = served(mlserver.url, bundle)
    assert model.up
    for rows in (1, 2, 300, 2_345):
        asked = vectors(rows)
        np.testing.assert_allclose(model.score(asked), bundle.runtime.score(asked), atol=1e-6)
        np.testing.assert_allclose(model.log_odds(asked), bundle.runtime.log_odds(asked), atol=1e-5)
    assert not model.take_fell_back()
    assert model.score(vectors(0)).shape == (0,)


def test_mlserver_is_asked_for_the_version_that_the_url_names(mlserver: MlServer, bundle: Bundle) -> None:
    assert served(f"{mlserver.url}/versions/1", bundle).up
    with pytest.raises(ModelServerError, match="no model at this path"):
        OpenInferenceModel(f"{mlserver.url}/versions/9", WIDTH, PATIENT_S).prepare()


def test_mlserver_hangs_and_goes_on(mlserver: MlServer, bundle: Bundle) -> None:
    model = served(mlserver.url, bundle, timeout_s=1.0)
    until(lambda: is_used(model, bundle))  # a busy machine may take longer at first
    mlserver.process.send(signal.SIGSTOP)
    try:
        falls_back(model, bundle)
        assert not model.up
    finally:
        mlserver.process.send(signal.SIGCONT)
    until(lambda: is_used(model, bundle))


def test_decisions_by_mlserver_that_dies_and_comes_back_with_another_model(
    mlserver: MlServer, tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """Through wiring and the scorer, as ``fraudml serve`` has it."""
    settings = Settings(
        _env_file=None,
        home=prepared.empty_registry(tmp_path / "home"),
        model_server_url=f"{mlserver.url}/versions/{{version}}",
        model_server_timeout_ms=20_000,
    )
    models = wiring.registry(settings)
    assert bundle.directory is not None
    models.register(bundle.directory)
    lifecycle.promote(models, 1, "the first")
    source = wiring.model_source(settings, FEATURES)
    metrics = Metrics()
    with caplog.at_level(logging.INFO, "fraudml.decisions"):
        model = source.load(source.named().champion)
        metrics.watch_dependency("model_server", lambda: model.server_up)
        scorer = Scorer(model, ReferenceStore(), wiring.decision_log(settings, SCHEMA))
        numbers = iter(range(1, 1_000_000))

        def degraded() -> tuple[str, ...]:
            (decision,) = scorer.score([transaction(next(numbers))])
            assert decision.score is not None
            assert decision.action == model.policy.action(decision.score)
            return tuple(decision.degraded)

        assert (degraded(), scorer.degraded) == ((), ())
        mlserver.process.kill()
        assert degraded() == ("model_server",)
        assert scorer.degraded == ("model_server",)
        assert b'fraud_dependency_up{dependency="model_server"} 0.0' in metrics.text()
        mlserver.use(linear_model([0.3] * WIDTH, 1.0))
        mlserver.process.start()
        until(lambda: degraded() == ("model_server",) and "has another model" in caplog.text)
        mlserver.process.kill()
        mlserver.use(model_of(bundle))
        mlserver.process.start()
        until(lambda: degraded() == ())
    assert b'fraud_dependency_up{dependency="model_server"} 1.0' in metrics.text()
    assert "scores again for model 1" in caplog.text


def test_doctor_looks_at_mlserver(mlserver: MlServer, bundle: Bundle, tmp_path: Path) -> None:
    facts = _facts.facts(mlserver.url, PATIENT_S)
    assert isinstance(facts, ServerFacts)
    assert (facts.product, facts.version) == ("mlserver", "1.7.1")
    settings = Settings(_env_file=None, home=prepared.empty_registry(tmp_path / "home"), model_server_url=mlserver.url)
    models = wiring.registry(settings)
    other = tmp_path / "other"
    make_bundle(other, FEATURES, bias=-1.0)
    assert bundle.directory is not None
    for folder in (bundle.directory, other):
        models.register(folder)
    assert isinstance(model_server(settings, PATIENT_S), ServerFacts)
    lifecycle.promote(models, 1, "the first")
    check_model_server(settings, FEATURES, PATIENT_S)
    lifecycle.promote(models, 2, "another")
    with pytest.raises(ModelServerError, match="has another model"):
        check_model_server(settings, FEATURES, PATIENT_S)


# --- what a real one does only when it is broken


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            lambda: Reply(500, b'{"error": "out of memory\\nTraceback"}'),
            r"refused to score \(status 500\): out of memory$",
        ),
        (lambda: Reply(500, b"<html>"), r"refused to score \(status 500\)$"),
        (lambda: Reply(200, b"garbage"), "cannot be used"),
        (lambda: Reply(200, b""), "cannot be used"),
        (lambda: Reply(0, b""), "breaks connections off"),
        (lambda: Reply(200, answer("probability", [0.5] * 2).body), "shape"),
        (lambda: Reply(200, answer("probability", [0.5] * 4, [2, 2]).body), "shape"),
        (lambda: Reply(200, answer("probability", [0.5, 0.5, 0.5, None]).body), "probabilities that are none"),
        (lambda: Reply(200, answer("probability", [0.5, 0.5, 0.5, 1.2]).body), "probabilities that are none"),
        (lambda: Reply(200, answer("probability", [0.5] * 4).body), "has another model"),
        (lambda: Reply(200, b'{"outputs":[]}'), "does not give 'probability'"),
        (lambda: Reply(401, b"{}"), "wants other credentials"),
        (lambda: Reply(302, b"", {"Location": "/"}), "refused to score"),
    ],
)
def test_what_cannot_be_right_is_not_used(
    server: InferenceServer,
    bundle: Bundle,
    reply: Callable[[], Reply],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = served(server.url, bundle, circuit=Circuit(60.0, 60.0))
    assert is_used(model, bundle)
    server.instead = reply
    falls_back(model, bundle)
    assert not model.up
    (record,) = caplog.records
    assert record.exc_info is None
    assert re.search(said, record.getMessage()), record.getMessage()
    before = len(server.seen)
    falls_back(model, bundle)
    assert len(server.seen) == before  # it is left alone for a while


def test_a_server_that_hangs_costs_one_deadline(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v2/models/fraud"
        started = time.monotonic()
        model = served(url, bundle, HASTY_S, Circuit(60.0, 60.0))
        assert HASTY_S <= time.monotonic() - started < PATIENT_S
        assert not model.up
        falls_back(model, bundle)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # the batch did not ask again
            silent.accept()


def test_the_deadline_is_for_the_whole_answer(server: InferenceServer, bundle: Bundle) -> None:
    model = OpenInferenceModel(server.url, WIDTH, HASTY_S)
    model.prepare()
    body = answer("probability", [0.5]).body
    server.instead = lambda: Reply(200, body, drip_s=HASTY_S / 2)  # each byte comes in time, all of them do not
    started = time.monotonic()
    with pytest.raises(ModelServerError, match="FRAUDML_MODEL_SERVER_TIMEOUT_MS"):
        model.score(vectors(1))
    assert time.monotonic() - started < len(body) * HASTY_S / 4


def test_nobody_listens(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ModelServerError, match="Connection refused"):
        OpenInferenceModel(f"http://127.0.0.1:{port}/v2/models/fraud", WIDTH, HASTY_S).prepare()
    with pytest.raises(ModelServerError, match="cannot be asked"):
        OpenInferenceModel("http://no.such.host.invalid/v2/models/fraud", WIDTH, HASTY_S).prepare()


def test_a_connection_that_was_closed_meanwhile_is_opened_again(server: InferenceServer, bundle: Bundle) -> None:
    model = served(server.url, bundle)
    assert is_used(model, bundle)
    assert server.connections == 1
    turns = iter([Reply(0, b""), None, Reply(503, b"{}"), None])
    server.instead = lambda: next(turns)
    assert is_used(model, bundle)  # the first answer was none
    assert is_used(model, bundle)  # and this time another replica answers
    assert server.connections == 3


def test_another_model_is_seen_with_the_next_batch(server: InferenceServer, bundle: Bundle) -> None:
    model = served(server.url, bundle, circuit=Circuit(60.0, 60.0))
    assert is_used(model, bundle)
    server.score = lambda asked: np.full(len(asked), 0.4, np.float32)
    falls_back(model, bundle, rows=1)


def test_it_comes_back_by_itself(server: InferenceServer, bundle: Bundle) -> None:
    server.ready = 503
    model = served(server.url, bundle)
    assert not model.up
    falls_back(model, bundle)
    server.ready = 200
    until(lambda: is_used(model, bundle))


def test_many_rows_are_split_and_keep_their_order(server: InferenceServer, bundle: Bundle) -> None:
    model = OpenInferenceModel(server.url, WIDTH, PATIENT_S, most_rows=10)
    asked = vectors(34)
    np.testing.assert_allclose(model.score(asked), bundle.runtime.score(asked), atol=1e-7)
    assert server.seen == [10, 10, 10, 4]


def test_one_output_is_enough(server: InferenceServer, bundle: Bundle) -> None:
    server.margins = False
    asked = vectors(20)
    model = OpenInferenceModel(server.url, WIDTH, PATIENT_S)
    np.testing.assert_allclose(model.log_odds(asked), bundle.runtime.log_odds(asked), atol=1e-5)
    server.score = lambda rows: np.ones(len(rows), np.float32)
    assert np.isfinite(model.log_odds(asked)).all()


def test_tensors_are_bytes_where_the_server_has_them(server: InferenceServer, bundle: Bundle) -> None:
    server.binary = True
    model = served(server.url, bundle)
    assert is_used(model, bundle)
    assert server.headers["Content-Type"] == "application/octet-stream"


def test_credentials_are_sent_and_not_told(server: InferenceServer, bundle: Bundle) -> None:
    url = server.url.replace("http://", "http://:s3cret@")
    model = OpenInferenceModel(url, WIDTH, PATIENT_S)
    model.score(vectors(1))
    assert server.headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in model.place
    basic = OpenInferenceModel(server.url.replace("http://", "http://me:pw@"), WIDTH, PATIENT_S)
    basic.score(vectors(1))
    assert server.headers["Authorization"] == "Basic bWU6cHc="
    assert "s3cret" not in repr(Settings(_env_file=None, model_server_url=url))


def test_versions_that_a_server_tells_of(server: InferenceServer) -> None:
    server.versions = ["3", "4"]
    found = OpenInferenceModel(f"{server.url}/versions/4", WIDTH, PATIENT_S).describe()
    assert found.versions == ["3", "4"]
    with pytest.raises(ModelServerError, match="has the versions 3, 4 only"):
        OpenInferenceModel(f"{server.url}/versions/5", WIDTH, PATIENT_S).prepare()


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8080", "ftp://h/v2/models/m", "http://h", "http://h/v2/models/", "http://h/v1/models/m"),
        *(
            "http://h/v2/models/m/infer",
            "http://h:x/v2/models/m",
            "http://h/v2/models/m?key=s3cret",
            "http://[/v2/models/m",
        ),
    ],
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="FRAUDML_MODEL_SERVER_URL") as caught:
        OpenInferenceModel(url, WIDTH, 1.0)
    assert "s3cret" not in str(caught.value)


def test_threads_do_not_get_in_each_others_way(server: InferenceServer, bundle: Bundle) -> None:
    model = served(server.url, bundle)
    wrong: list[Any] = []

    def ask(seed: int) -> None:
        for rows in range(1, 20):
            asked = vectors(rows, seed)
            if abs(model.score(asked) - bundle.runtime.score(asked)).max() > 1e-6 or model.take_fell_back():
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    falls = Model(bundle, server=model)
    assert falls.take_lost() == ()


def test_facts_of_a_server_that_is_not_well(server: InferenceServer) -> None:
    server.ready = 503
    found = _facts.facts(server.url, PATIENT_S)
    assert isinstance(found, Trouble)
    assert "not ready" in found.why
    server.ready = 200
    facts = _facts.facts(server.url, PATIENT_S)
    assert isinstance(facts, ServerFacts)
    assert facts.details == {"versions": "1"}


def test_the_command_says_what_is_wrong_with_the_server(server: InferenceServer, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"FRAUDML_MODEL_SERVER_URL={server.url}\n")
    findings = [
        each for each in fraudml("doctor", "--json", cwd=tmp_path).json["findings"] if each["check"] == "model server"
    ]
    assert [findings[0]["status"], findings[-1]["status"]] == ["ok", "note"]  # how fast it is depends on the machine
    server.ready = 500
    done = fraudml("doctor", "--quiet", cwd=tmp_path)
    assert done.code == 2
    assert "model server: 127.0.0.1" in done.err
