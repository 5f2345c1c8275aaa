"""A service follows its registry: the real one, through wiring."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from fraudml import project as projects
from fraudml import wiring
from fraudml.decisions.model import Model
from fraudml.decisions.scorer import Scorer
from fraudml.errors import NotFoundError
from fraudml.models import lifecycle
from fraudml.models.rollout import Mode, Plan
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring.refresh import Refresher
from fraudml.settings import Settings
from tests.support import prepared
from tests.support.bundles import make_bundle
from tests.support.commands import well
from tests.support.scoring import FEATURES, SCHEMA, ReferenceStore, bundle, transaction
from tests.support.serving import children, serving

DECLARED = """
schema:
  transaction_id: tx
  event_time: {column: time}
  entities: {customer: customer_id}
  amount: {column: amount}
features:
  - {name: amount, kind: attribute, of: amount}
"""


def make_scorer(settings: Settings, model: Model) -> Scorer:
    return Scorer(model, ReferenceStore(), wiring.decision_log(settings, SCHEMA))


def test_a_promotion_and_a_rollback_reach_a_running_scorer(tmp_path: Path) -> None:
    settings = Settings(home=prepared.empty_registry(tmp_path / "home"), cache="on")
    models, metrics = wiring.registry(settings), Metrics()
    source = wiring.model_source(settings, FEATURES, on_cache=metrics.cache)
    with pytest.raises(NotFoundError, match="fraudml train"):
        source.named()
    for number in (1, 2, 3):
        make_bundle(tmp_path / str(number), FEATURES, bias=-float(number))
        models.register(tmp_path / str(number))
    lifecycle.promote(models, 1, "the first")
    scorer = make_scorer(settings, source.load(source.named().champion))
    refresher = Refresher(scorer, source.named, source.load, metrics)
    refresher.check()
    assert scorer.model.version == "1"
    lifecycle.promote(models, 2, "better")
    refresher.check()
    assert scorer.model.version == "2"
    lifecycle.rollback(models, "not better")
    refresher.check()
    assert scorer.model.version == "1"
    for stored in settings.home.glob("artifacts/*/artifacts/bundle/model.onnx"):
        stored.write_bytes(b"rot")
    lifecycle.promote(models, 3, "nobody knows yet that its file is damaged")
    refresher.check()
    assert (scorer.model.version, refresher.registry_down) == ("1", False)
    assert b'fraud_model_swaps_total{outcome="refused"} 1.0' in metrics.text()
    (decision,) = scorer.score([transaction(1)])
    assert decision.model_version == "1"
    assert b'fraud_cache_total{outcome="miss"} 1.0' in metrics.text()


def test_a_server_that_takes_requests_and_answers_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = Settings(home=tmp_path / "home", registry_url=f"http://127.0.0.1:{server.getsockname()[1]}")
        source = wiring.model_source(settings, FEATURES)
        scorer = make_scorer(settings, Model(bundle()))
        refresher = Refresher(scorer, source.named, source.load, Metrics(), answer_s=0.05)
        refresher.check()
        assert refresher.registry_down
        assert scorer.score([transaction(1)])[0].degraded == ("registry",)
    # the kernel ends the connections of a closed listener: the call fails, and the next look may ask again
    for thread in threading.enumerate():
        if thread.name == "model-refresh-call":
            thread.join()
    refresher.check()
    assert refresher.registry_down


@pytest.mark.parametrize(("refresh_s", "arms"), [("5", {"champion", "challenger-2"}), ("0", {"champion"})])
def test_a_service_that_never_looks_takes_no_part_in_an_experiment(
    tmp_path: Path, refresh_s: str, arms: set[str]
) -> None:
    (tmp_path / "fraudml.yaml").write_text(DECLARED, encoding="utf-8")
    registry = wiring.registry(Settings(_env_file=None, home=prepared.empty_registry(tmp_path / ".fraudml")))
    for number in (1, 2):
        make_bundle(tmp_path / str(number), projects.parse(DECLARED).feature_set, bias=-float(number))
        registry.register(tmp_path / str(number))
    lifecycle.promote(registry, 1, "the first")
    lifecycle.start(registry, Plan(Mode.canary, {2: 0.5}, "customer"), "try it")
    key = well("keys", "create", "load", "--scope", "score", cwd=tmp_path).out.strip()
    rows = [{"tx": f"t{i}", "time": "2024-05-01T00:00:00Z", "customer_id": f"c{i}", "amount": 1} for i in range(40)]
    with serving(tmp_path, as_users_do=True, refresh_s=refresh_s) as service, service.client(key) as client:
        results = client.post("/v1/batch-predict", json={"transactions": rows}).json()["results"]
        asks = bool(children(service.process.pid))
    assert {each["arm"] for each in results} == arms
    assert asks is (refresh_s != "0"), "who never looks again keeps no process for that"
    warned = "without the challengers of revision 2" in (tmp_path / "serve.err").read_text(encoding="utf-8")
    assert warned is (refresh_s == "0")
