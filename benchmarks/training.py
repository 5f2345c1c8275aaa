"""``fraudml train`` by defaults on 1.75 M transactions: three families, report, registry."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import common


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        home = Path(place)
        common.handbook_project(home)
        seconds, peak, printed = common.command("train", "--json", home=home)
    found = json.loads(printed)["candidates"]
    rows = [
        [
            each["family"],
            f"{each['metrics']['roc_auc']:.3f}",
            f"{each['metrics']['average_precision']:.3f}",
            f"{each['metrics']['recall_at_fpr_0.01']:.1%}",
            f"{each['money']['saved_per_day']:,.0f}",
            f"{each['seconds']:.0f}",
        ]
        for each in found
    ]
    text = common.table(["family", "ROC AUC", "average precision", "recall at 1 % FPR", "saved/day", "fit s"], rows)
    took = f"`fraudml train` took {seconds:.0f} s and {peak:.2f} GiB at its peak."
    return f"{took} Held-back last fifth of the file:\n\n{text}"
