"""Our own ``/v2``: for any V2 client, our adapter and Triton's client among them; it decides and records nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fraudml import __version__
from fraudml.adapters.model_server.open_inference import OpenInferenceModel
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.tensors import InferRequest, InferResponse, pack, unpack
from fraudml.errors import ModelServerError
from fraudml.features.derive import to_model
from fraudml.models.rollout import Challenger, Change, Experiment, Kind, Mode, Rollout
from tests.support.scoring import FEATURES, CountingRuntime, bundle
from tests.support.server import Service
from tests.support.servers import mlserver

MODEL = "/v2/models/fraud"
WIDTH = len(FEATURES.inputs)
LENGTH = "Inference-Header-Content-Length"
TRITON_CLIENT = """
import sys
import numpy as np
import tritonclient.http as http

address, token, width, binary = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "binary"
headers = {"Authorization": f"Bearer {token}"}
client = http.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("fraud", "1")
assert client.get_server_metadata(headers=headers)["name"] == "fraudml"
assert client.get_model_metadata("fraud", headers=headers)["inputs"][0]["shape"] == [-1, width]
vectors = np.arange(3 * width, dtype=np.float32).reshape(3, width)
if binary:
    vectors[1, 1] = np.nan
tensor = http.InferInput("features", list(vectors.shape), "FP32")
tensor.set_data_from_numpy(vectors, binary_data=binary)
asked = [http.InferRequestedOutput(name, binary_data=binary) for name in ("margin", "probability")]
for outputs in (asked, None):
    found = client.infer("fraud", [tensor], outputs=outputs, headers=headers, request_id="7")
    assert found.get_response()["id"] == "7"
print(*found.as_numpy("probability").tolist())
try:
    client.infer("other", [tensor], headers=headers)
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """For tests that change no settings."""
    running = Service(tmp_path_factory.mktemp("v2"), max_batch=50, max_body_bytes=20_000)
    yield running
    running.stop()


def vectors(rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(2)
    made = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    made[rng.random(made.shape) < 0.2] = np.nan
    return made


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "features", "shape": [1, WIDTH], "datatype": "FP32", "data": [0.0] * WIDTH} | changes
    return {"inputs": [tensor]}


def failure(response: httpx.Response, status: int) -> str:
    """The error's text; it has the protocol's form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


def test_what_the_server_and_the_model_say_of_themselves(shared: Service) -> None:
    get = shared.client.get
    assert get("/v2").json() == {"name": "fraudml", "version": __version__, "extensions": ["binary_tensor_data"]}
    about = get(MODEL).json()
    assert about == get(f"{MODEL}/versions/1").json()
    assert (about["name"], about["versions"], about["platform"]) == ("fraud", ["1"], "onnxruntime_onnx")
    assert about["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]}]
    assert [output["name"] for output in about["outputs"]] == ["probability", "margin"]
    assert about["parameters"]["features"] == list(FEATURES.input_names)
    anyone = shared.as_(None)
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        assert anyone.get(path).status_code == 200


def test_a_challenger_is_there_by_its_version(tmp_path: Path) -> None:
    running = Service(tmp_path)
    try:
        challengers = (Challenger(2, ((0, 1),)),)
        experiment = Experiment(Mode.canary, challengers, "customer", "s", 0)
        rollout = Rollout(1, Change(Kind.start, "", "", "a test"), experiment)
        running.state.scorer.use(Lineup({1: running.model, 2: Model(bundle("2"))}, rollout))
        about = running.client.get(f"{MODEL}/versions/2").json()
        assert about["versions"] == ["1", "2"]
        response = running.client.post(f"{MODEL}/versions/2/infer", json=request())
        assert response.json()["model_version"] == "2"
        assert "of version 1, 2 only" in failure(running.client.get(f"{MODEL}/versions/3"), 404)
    finally:
        running.stop()


@pytest.mark.parametrize("path", [f"{MODEL}/versions/2", "/v2/models/other", f"{MODEL}/versions/2/ready"])
def test_only_the_version_that_serves_is_there(shared: Service, path: str) -> None:
    assert "'fraud' of version 1 only" in failure(shared.client.get(path), 404)
    infer = shared.client.post(f"{path.removesuffix('/ready')}/infer", json=request())
    failure(infer, 404)


@pytest.mark.parametrize(("method", "path"), [("GET", "/v2"), ("GET", MODEL), ("POST", f"{MODEL}/infer")])
def test_it_wants_the_scope_score(shared: Service, method: str, path: str) -> None:
    refused = shared.as_(None).request(method, path)
    failure(refused, 401)
    assert refused.headers["www-authenticate"] == "Bearer"
    failure(shared.as_("read").request(method, path), 403)
    assert shared.as_("admin").request(method, path).status_code in (200, 400)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 30])
def test_vectors_get_the_models_scores_and_nothing_is_recorded(shared: Service, rows: int, binary: bool) -> None:
    asked = vectors(rows)
    packed = pack({"id": "x1"}, "inputs", {"features": asked}, ["features"] if binary else [])
    response = shared.client.post(f"{MODEL}/versions/1/infer", content=packed.body, headers=packed.headers)
    assert response.status_code == 200, response.text
    message, found = unpack(response.content, response.headers.get(LENGTH), InferResponse)
    assert (message.id, message.model_name, message.model_version) == ("x1", "fraud", "1")
    np.testing.assert_allclose(found["probability"], CountingRuntime().score(asked), rtol=1e-6)
    np.testing.assert_allclose(found["margin"], CountingRuntime().log_odds(asked), rtol=1e-5)
    assert shared.store.events == []
    assert list(shared.log.replay()) == []


def test_the_outputs_asked_for_in_the_form_asked_for(shared: Service) -> None:
    wanted = [{"name": "margin", "parameters": {"binary_data": True}}, {"name": "probability"}]
    response = shared.client.post(f"{MODEL}/infer", json=request() | {"outputs": wanted})
    message, found = unpack(response.content, response.headers[LENGTH], InferResponse)
    assert list(found) == ["margin", "probability"]
    assert [bool(bytes(output.data)) for output in message.outputs] == [False, True]
    assert found["margin"].tolist() == [-3.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "x"}, "expected one tensor, 'features'"),
        ({"shape": [WIDTH]}, f"expected [n, {WIDTH}]"),
        ({"shape": [1, WIDTH - 1], "data": [0.0] * (WIDTH - 1)}, f"expected [n, {WIDTH}]"),
        ({"data": ["a"] * WIDTH}, "expected numbers or null"),
        ({"datatype": "BYTES"}, "expected FP32 or FP64"),
    ],
)
def test_a_wrong_tensor_is_400(shared: Service, changes: dict[str, Any], said: str) -> None:
    assert said in failure(shared.client.post(f"{MODEL}/infer", json=request(**changes)), 400)


def test_other_wrong_requests(shared: Service) -> None:
    post = shared.client.post
    assert "no 'shap'" in failure(post(f"{MODEL}/infer", json=request() | {"outputs": [{"name": "shap"}]}), 400)
    assert "one tensor" in failure(post(f"{MODEL}/infer", json={"inputs": []}), 400)
    failure(post(f"{MODEL}/infer", content=b"{"), 400)
    failure(post(f"{MODEL}/infer", content=b"", headers={"Content-Type": "text/plain"}), 415)
    failure(post(f"{MODEL}/infer", content=b"{}", headers={LENGTH: "x"}), 400)
    many = request(shape=[51, WIDTH], data=[0.0] * 51 * WIDTH)
    assert "50 rows" in failure(post(f"{MODEL}/infer", json=many), 413)
    failure(post(f"{MODEL}/infer", content=b" " * 20_001), 413)


def test_numbers_beyond_what_a_model_reads(shared: Service) -> None:
    big = request(datatype="FP64", data=[1e300, -1e300] + [None] * (WIDTH - 2))
    assert shared.client.post(f"{MODEL}/infer", json=big).status_code == 200


def test_rows_count_for_the_rate(tmp_path: Path) -> None:
    service = Service(tmp_path, rate_limit_per_s=5.0)
    try:
        many = request(shape=[500, WIDTH], data=[0.0] * 500 * WIDTH)
        assert service.client.post(f"{MODEL}/infer", json=many).status_code == 200
        refused = service.client.post(f"{MODEL}/infer", json=request())
        failure(refused, 429)
        assert int(refused.headers["retry-after"]) > 80
    finally:
        service.stop()


def test_our_own_adapter_is_a_client(shared: Service) -> None:
    address = f"http://:{shared.tokens['score']}@127.0.0.1:{shared.port}{MODEL}"
    for url in (address, f"{address}/versions/1"):
        model = OpenInferenceModel(url, WIDTH, 20.0, most_rows=30)
        model.prepare()
        asked = vectors(70)
        np.testing.assert_allclose(model.score(asked), CountingRuntime().score(asked), rtol=1e-6)
        np.testing.assert_allclose(model.log_odds(asked), CountingRuntime().log_odds(asked), rtol=1e-5)
    with pytest.raises(ModelServerError, match="wants other credentials"):
        OpenInferenceModel(address.replace("fml_", "fml_x"), WIDTH, 20.0).score(asked)
    with pytest.raises(ModelServerError, match="of version 1 only"):
        OpenInferenceModel(f"{address}/versions/2", WIDTH, 20.0).score(asked)


@pytest.mark.parametrize("form", ["binary", "json"])
def test_tritons_client_is_a_client(shared: Service, form: str) -> None:
    """It comes with MLServer, so it is in that one's environment."""
    address = f"127.0.0.1:{shared.port}"
    command = [str(mlserver.interpreter()), "-c", TRITON_CLIENT, address, shared.tokens["score"], str(WIDTH), form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    scores, refused = done.stdout.strip().splitlines()
    asked = np.arange(3.0 * WIDTH).reshape(3, WIDTH)
    if form == "binary":
        asked[1, 1] = np.nan
    np.testing.assert_allclose(
        [float(each) for each in scores.split()], CountingRuntime().score(to_model(asked)), rtol=1e-6
    )
    assert "of version 1 only" in refused


def test_a_request_as_mlservers_codecs_make_it(shared: Service) -> None:
    code = (
        "import numpy as np\nfrom mlserver.codecs import NumpyCodec\nfrom mlserver.types import InferenceRequest\n"
        f"tensor = NumpyCodec.encode_input('features', np.ones((2, {WIDTH}), np.float32))\n"
        "print(InferenceRequest(inputs=[tensor]).model_dump_json(exclude_none=True))"
    )
    done = subprocess.run(
        [mlserver.interpreter(), "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    message, _ = unpack(done.stdout.encode(), None, InferRequest)
    assert message.inputs[0].datatype == "FP32"
    assert shared.client.post(f"{MODEL}/infer", json=json.loads(done.stdout)).status_code == 200


def test_inference_is_counted(shared: Service) -> None:
    shared.client.post(f"{MODEL}/infer", json=request())
    text = shared.client.get("/metrics").text
    assert 'fraud_http_requests_total{route="/v2/models/{model_name}/infer",status="200"}' in text
    assert 'fraud_prediction_latency_seconds_count{route="infer"}' in text
