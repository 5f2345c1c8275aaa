"""What MLServer runs in our tests: a bundle's ``model.onnx``. Imported by MLServer in its own environment."""

from __future__ import annotations

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

OUTPUTS = ["probability", "margin"]


class OnnxModel(MLModel):
    """Reads ``features``, gives both outputs."""

    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        features = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        values = self._session.run(OUTPUTS, {"features": features})
        outputs = [NumpyCodec.encode_output(name, value) for name, value in zip(OUTPUTS, values, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, id=payload.id, outputs=outputs)
