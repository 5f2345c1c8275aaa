"""BentoML: a service class with a batchable API around ONNX Runtime."""

import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Fraud:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(Path(os.environ["MODELS"]) / "model.onnx", options)
        self.name = self.session.get_inputs()[0].name

    @bentoml.api(batchable=True)
    def predict(self, features: np.ndarray) -> np.ndarray:
        return self.session.run(["probability"], {self.name: features.astype(np.float32)})[0]
