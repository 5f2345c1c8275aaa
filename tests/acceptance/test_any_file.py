"""Files nobody tuned for: ``init``, ``train``, ``score`` and ``serve`` as a user types them, by defaults alone."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support import lookalikes, prepared
from tests.support.commands import fraudml

ROWS = 4_000
FRAUD_RATE = 0.1
SERVED = {"semicolons", "card_components"}
BETTER_THAN_CHANCE = 1.7  # average precision over the fraud rate; small files are noisy


def quietly(*arguments: str, cwd: Path) -> Any:
    """The JSON result of a command that succeeds without a word of warning."""
    done = fraudml(*arguments, "--json", cwd=cwd)
    assert done.code == 0, done.err
    assert not done.err, f"fraudml {' '.join(arguments)} said:\n{done.err}"
    return done.json


@pytest.mark.parametrize("name", lookalikes.MAKERS)
def test_from_a_file_to_scores(name: str, tmp_path: Path) -> None:
    lookalikes.make(name, tmp_path / "file.csv", ROWS, FRAUD_RATE)
    quietly("init", "file.csv", "--yes", cwd=tmp_path)
    best = quietly("train", "--family", "xgboost", cwd=tmp_path)["candidates"][0]["metrics"]
    assert best["average_precision"] > BETTER_THAN_CHANCE * best["frauds"] / best["rows"]
    assert best["calibration_error"] < 0.06

    scored = quietly("score", "file.csv", "-o", "scores.parquet", cwd=tmp_path)
    assert (scored["rows"], scored["rejected"]) == (ROWS, 0)
    scores = pq.read_table(tmp_path / "scores.parquet").column("score").to_numpy()
    assert len(scores) == ROWS
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(np.unique(scores)) > 100

    if name in SERVED:
        sql = fraudml("features", "sql", cwd=tmp_path)
        assert (sql.code, sql.err) == (0, "")
        assert "SELECT" in sql.out
        decision = first_request(tmp_path)
        assert 0 <= decision["score"] <= 1
        assert decision["action"] in {"approve", "review", "decline"}


def first_request(directory: Path) -> Any:
    """Start the service, and send what the ``curl`` command that it prints would send."""
    errors = directory / "serve.err"
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            [*prepared.command(), "serve", "--port", "0"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    try:
        assert process.stdout is not None
        typed = next((line for line in process.stdout if line.startswith("curl ")), "")
        assert typed, errors.read_text(encoding="utf-8")
        _, _, url, _, header, _, body = shlex.split(typed)
        key, _, value = header.partition(": ")
        answer = httpx.post(url, headers={key: value}, json=json.loads(body), timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def test_several_files_are_one_history(tmp_path: Path) -> None:
    columns = lookalikes.semicolons(np.random.default_rng(3), 3_000, 0.1)
    for number, rows in enumerate((slice(0, 1_500), slice(1_500, None))):
        lookalikes.write(tmp_path / f"{number}.csv", {name: values[rows] for name, values in columns.items()})
    quietly("init", "0.csv", "1.csv", "--yes", cwd=tmp_path)
    trained = quietly("train", "--family", "logistic_regression", cwd=tmp_path)
    assert trained["candidates"][0]["metrics"]["rows"] == 600
    assert quietly("score", cwd=tmp_path)["rows"] == 3_000
