"""Promotes one version after the other, in a process of its own: who promotes is another machine as a rule.

``python -m benchmarks.promoter HOME COUNT WAIT_S EVERY_S``. It says ``ready`` when all is imported, waits, and then
says of each promotion when it began and when it was in the registry (``time.perf_counter``, which all processes of a
Linux machine share).
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks import common
from fraudml import wiring
from fraudml.models import lifecycle


def main(home: Path, count: int, wait_s: float, every_s: float) -> None:
    """The process."""
    # the load is on this core, too, and what it waits for us would be taken for the service's
    os.nice(19)
    with suppress(OSError):  # between sessions only this counts
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")
    registry = wiring.registry(common.settings(home))
    champion = lifecycle.current(registry).champion
    print("ready", flush=True)
    first = time.perf_counter() + wait_s
    for number in range(count):
        time.sleep(max(0.0, first + number * every_s - time.perf_counter()))
        champion = 3 - champion
        began = time.perf_counter()
        lifecycle.promote(registry, champion, "benchmark")
        print(began, time.perf_counter(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
