"""Writes the dashboards for Grafana: ``python -m deploy.grafana.build``.

Grafana reads ``provisioned/*.json`` (see ``provisioning/``); a test holds that they are what this writes.
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana import capacity_cost, data_drift, fraud_overview, model_experiment, streaming

PROVISIONED = Path(__file__).with_name("provisioned")


def dashboards() -> list[Dashboard]:
    """All of them, the one to open first at the front."""
    return [module.build() for module in (fraud_overview, model_experiment, data_drift, streaming, capacity_cost)]


def files() -> dict[str, str]:
    """The text of each file by its name."""
    return {
        f"{board.uid}.json": json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for board in dashboards()
    }


def main() -> None:
    """Write them."""
    PROVISIONED.mkdir(exist_ok=True)
    for name, text in files().items():
        (PROVISIONED / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
