"""From what was recorded to figures; what a server uses; where things run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fraudml.cli.bench import child, latency, minutes, results, usage
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.record import Recorded
from fraudml.cli.bench.server import given
from fraudml.errors import ConfigError, MissingExtra
from fraudml.monitoring import profile


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
    assert latency.latencies(planned, data).tolist() == [0.05, 9.0]
    assert (found.requests, found.timed, found.shed) == (4, 2, 1)
    assert found.errors == {"422": 1, "503": 1, "gone": 1}
    assert found.latency_ms["p50"] == pytest.approx(4_525.0)


@pytest.mark.parametrize(("count", "told"), [(199, []), (200, ["p95"]), (9_999, ["p95", "p99"])])
def test_a_percentile_is_told_when_ten_requests_lie_beyond_it(count: int, told: list[str]) -> None:
    found = latency.percentiles(np.arange(float(count)))
    assert [name for name, value in found.items() if value is not None] == ["p50", *told, "max"]


def test_a_long_load_is_told_minute_by_minute(capsys: pytest.CaptureFixture[str]) -> None:
    started = np.arange(0.0, 190.0, 0.01)  # 100 requests a second; the first 10 s are the warm-up
    took = np.where((started >= 70.0) & (started < 130.0), 0.200, 0.002)
    took[started < 10.0] = 9.0
    data = recorded(started.tolist(), took.tolist(), [200] * len(started))
    found = results.figures(Plan("", 0, 1, seconds=180.0, warmup_s=10.0), data)
    assert [minute.requests for minute in found.minutes] == [6_000] * 3
    assert [minute.latency_ms["p99"] for minute in found.minutes] == [2.0, 200.0, 2.0]
    assert [minute.stolen_percent for minute in found.minutes] == [None] * 3  # nobody watched
    results.show([found])
    assert "p99 2.00 and 200 ms" in " ".join(capsys.readouterr().out.split())
    assert minutes.by_minute(Plan("", 0, 1, seconds=119.0), data, None) == []


def test_what_the_host_took_from_the_server_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc")
    seconds = itertools.count()
    monkeypatch.setattr(usage, "_stolen_s", lambda cores: next(seconds))  # one between any two samples
    sampler = usage.Sampler(os.getpid())
    sampler.stop()
    sampler.run()
    first, last = sampler._moments
    data = recorded([0.0], [0.01], [200], zero=first)
    found = results.figures(Plan("", 0, 1, last - first), data, sampler=sampler)
    assert found.server is not None
    assert found.server.stolen_percent == pytest.approx(100 / (last - first))
    results.show([found])
    assert "host of this virtual machine" in " ".join(capsys.readouterr().err.split())


def test_stolen_time_is_of_the_cores_that_the_server_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    lines = [f"cpu{core} 1 1 1 1 1 1 1 {stolen * ticks} 0 0" for core, stolen in (("", 99), (0, 2), (1, 4), (2, 50))]
    (tmp_path / "stat").write_text("\n".join([*lines, "intr 1", ""]))
    monkeypatch.setattr(usage, "_PROC", tmp_path)
    assert usage._stolen_s({"cpu0", "cpu1"}) == 3.0
    (tmp_path / "stat").unlink()
    assert usage._stolen_s({"cpu0"}) == 0.0


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
    results.plot([(found, latency.latencies(planned, data)), (none, np.array([]))], tmp_path / "plot.png")
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
    monkeypatch.setattr(profile.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(MissingExtra, match=r"fraudml\[profile\]"):
        profile.tool()
