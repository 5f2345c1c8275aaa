"""What most tutorials show: a pydantic model, a pandas DataFrame of one row, ``predict_proba``.

``def`` on purpose: it is what most write. FastAPI runs such a function in a thread of its pool, which costs some time.
"""

import json
import os
from pathlib import Path

import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel, create_model
from xgboost import XGBClassifier

MODELS = Path(os.environ["MODELS"])
names = json.loads((MODELS / "names.json").read_text())
Transaction = create_model("Transaction", **dict.fromkeys(names, (float, ...)))
model = XGBClassifier()
model.load_model(MODELS / "model.json")
app = FastAPI()


class Prediction(BaseModel):
    score: float


@app.post("/predict")
def predict(transaction: Transaction) -> Prediction:
    frame = pd.DataFrame([transaction.model_dump()])
    return Prediction(score=float(model.predict_proba(frame)[0, 1]))
