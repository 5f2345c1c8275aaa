"""From what was recorded to figures; what a server uses; where things run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fraudml.cli.bench import child, flame, results, usage
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.record import Recorded
from fraudml.cli.bench.server import given
from fraudml.errors import ConfigError, MissingExtra


def recorded(started: list[float], latency: list[float], status: list[int], **changes: Any) -> Recorded:
    values: dict[str, Any] = {
        "zero": 0.0,
        "started": np.array(started).tobytes(),
        "latency": np.array(latency).tobytes(),
        "status": np.array(status, np.uint16).tobytes(),
        "errors": {},
        "samples": {},
        "degraded": 0,
        "failed_items": 0,
        "most_connections": 1,
        "most_waiting": 0,
        "cpu_s": 0.5,
        "seconds": 2.0,
    }
    return Recorded(**(values | changes))


def test_the_warm_up_counts_for_nothing_but_its_errors() -> None:
    planned = Plan("", 0, 1, seconds=10.0, warmup_s=1.0)
    started = [0.5, 0.9, *np.linspace(1.0, 10.8, 10_000)]
    latency = [9.0, 5.0, *np.linspace(0.001, 0.100, 10_000)]
    found = results.figures(planned, recorded(started, latency, [500, *[200] * 10_001]))
    assert found.requests == found.timed == 10_000
    assert found.latency_ms["p50"] == pytest.approx(50.5, rel=1e-3)
    assert found.latency_ms["p99.9"] == pytest.approx(99.9, rel=1e-3)
    assert found.latency_ms["max"] == pytest.approx(100.0)
    assert found.throughput_per_s == pytest.approx(1_000.1)  # what was sent before and arrived in time counts, too
    assert found.errors == {"500": 1}
    assert found.load_cpu_percent == 25.0


def test_a_load_that_nobody_answered_has_figures() -> None:
    found = results.figures(Plan("", 0, 1, 1.0), recorded([0.1], [9.0], [0], errors={"gone": 1}))
    assert (found.throughput_per_s, found.latency_ms["p50"], found.errors) == (0.0, 9_000.0, {"gone": 1})
    assert results.figures(Plan("", 0, 1, 1.0), recorded([], [], [])).latency_ms["max"] is None


def test_quick_refusals_do_not_make_a_server_look_fast_and_silence_counts() -> None:
    data = recorded([0.1, 0.2, 0.3, 0.4], [0.05, 0.001, 0.001, 9.0], [200, 503, 422, 0], errors={"gone": 1})
    planned = Plan("", 0, 1, 1.0)
    found = results.figures(planned, data)
    assert results.latencies(planned, data).tolist() == [0.05, 9.0]
    assert (found.requests, found.timed, found.shed) == (4, 2, 1)
    assert found.errors == {"422": 1, "503": 1, "gone": 1}
    assert found.latency_ms["p50"] == pytest.approx(4_525.0)


@pytest.mark.parametrize(("count", "told"), [(199, []), (200, ["p95"]), (9_999, ["p95", "p99"])])
def test_a_percentile_is_told_when_ten_requests_lie_beyond_it(count: int, told: list[str]) -> None:
    found = results.percentiles(np.arange(float(count)))
    assert [name for name, value in found.items() if value is not None] == ["p50", *told, "max"]


def test_a_run_under_the_profiler_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    data = recorded([0.1], [0.01], [200])
    found = [results.figures(Plan("", 0, 1, 1.0), data, profiled=profiled) for profiled in (True, False)]
    assert [b'"profiled":true' in msgspec.json.encode(each) for each in found] == [True, False]
    results.show(found[:1])
    shown = capsys.readouterr()
    assert "profiled" in shown.out
    assert "without it" in " ".join(shown.err.split())
    results.show(found[1:])
    assert "profile" not in "".join(capsys.readouterr())


def test_the_plot_is_a_picture_and_figures_are_json(tmp_path: Path) -> None:
    planned = Plan("", 0, 1, 1.0)
    data = recorded([0.1, 0.2, 0.3], [0.01, 0.02, 0.5], [200] * 3)
    found, none = results.figures(planned, data), results.figures(planned, recorded([], [], []))
    results.plot([(found, results.latencies(planned, data)), (none, np.array([]))], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert msgspec.json.decode(msgspec.json.encode(found))["latency_ms"]["max"] == 500.0


def test_a_process_is_watched_with_its_children() -> None:
    spin = "import time\nwhile time.process_time() < 1.2: pass"  # so it lasts at least two samples
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    with child.running([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        begin = time.perf_counter()
        with usage.watched(process.pid) as sampler:
            process.wait(60)
        found = sampler.between(begin, time.perf_counter()) if sampler is not None else None
    if not Path("/proc/self/stat").exists():
        assert found is None
        return
    assert found is not None
    assert found.peak_mib > 5
    assert found.memory == (usage.PSS if Path("/proc/self/smaps_rollup").exists() else usage.RSS)
    assert found.cpu_percent > 0


def test_pages_of_each_process_are_summed_where_shares_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc")
    monkeypatch.setattr(usage, "_pss", lambda pid: None)
    sampler = usage.Sampler(os.getpid())
    sampler.stop()
    sampler.run()  # takes a first and a last sample
    after = time.perf_counter()
    found = sampler.between(after, after + 1)  # a busy machine may take no sample inside
    assert found is not None
    assert found.memory == usage.RSS
    assert found.peak_mib > 5


def test_nothing_is_known_of_a_process_that_is_not_there() -> None:
    with usage.watched(None) as nobody, usage.watched(2**31 - 1) as gone:
        assert nobody is None
        assert gone is None


def test_server_and_load_share_no_core() -> None:
    assert child.places(pin=False) == child.Places()
    found = child.places(pin=True)
    if found.server is not None and found.load is not None:
        before = os.sched_getaffinity(0)
        assert found.server | found.load == before
        assert not found.server & found.load
        with child.on(found.server):
            assert os.sched_getaffinity(0) == found.server
        assert os.sched_getaffinity(0) == before


def test_a_process_ends_with_its_block() -> None:
    with child.running([sys.executable, "-c", "input()"], stdout=subprocess.PIPE) as process:
        pass
    assert process.poll() is not None


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "https://here", "http://", "http://here:99999", "http://here/v1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        given(url, "key")


def test_a_running_service_needs_a_key() -> None:
    assert given("http://here:81/", "key").port == 81
    with pytest.raises(ConfigError, match="keys create"):
        given("http://here", None)


def test_a_missing_profiler_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flame.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(MissingExtra, match=r"fraudml\[bench\]"):
        flame.tool()
