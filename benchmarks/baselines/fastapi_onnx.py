"""The same with ONNX Runtime instead of pandas and XGBoost, and a plain list of features."""

import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(Path(os.environ["MODELS"]) / "model.onnx", options)
name = session.get_inputs()[0].name
app = FastAPI()


class Transaction(BaseModel):
    features: list[float]


class Prediction(BaseModel):
    score: float


@app.post("/predict")
async def predict(transaction: Transaction) -> Prediction:
    row = np.array([transaction.features], dtype=np.float32)
    return Prediction(score=float(session.run(["probability"], {name: row})[0][0]))
