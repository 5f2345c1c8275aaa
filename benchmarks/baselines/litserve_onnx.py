"""LitServe: the four methods of its documentation around ONNX Runtime, with its batching."""

import os
import sys
from pathlib import Path

import litserve as ls
import numpy as np
import onnxruntime


class Fraud(ls.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(Path(os.environ["MODELS"]) / "model.onnx", options)
        self.name = self.session.get_inputs()[0].name

    def decode_request(self, request):
        return np.array(request["features"], dtype=np.float32)

    def predict(self, x):
        return self.session.run(["probability"], {self.name: x})[0]

    def encode_response(self, output):
        return {"score": float(output)}


if __name__ == "__main__":
    server = ls.LitServer(Fraud(max_batch_size=16, batch_timeout=0.005), accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
