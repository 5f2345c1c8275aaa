"""Reports as a reader sees them: in a real browser, wide and narrow, without anything from the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from fraudml.decisions.costs import Costs
from fraudml.monitoring.drift import compare
from fraudml.monitoring.drift import page as drift_page
from fraudml.monitoring.rollouts.resampling import Interval
from fraudml.monitoring.weekly import page as weekly_page
from fraudml.monitoring.weekly import sums
from fraudml.monitoring.weekly import week as weeks
from fraudml.monitoring.weekly.outlook import Outlook
from tests.support.incidents import DAY_US, FEATURES, HOUR_US, REFERENCE_DAYS, SCHEMA, Installation, payments

CHROMIUM = shutil.which("chromium")
# Says in the title how wide a page is that should fit.
MEASURE = "<script>parent.document.title = 'width ' + document.documentElement.scrollWidth</script>"
# Debian's Chromium has no windows that are narrower than 500; a frame may be.
FRAME = '<title></title><iframe style="width: {width}px; height: 2000px; border: 0" srcdoc="{page}"></iframe>'

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The reports on five weeks in whose last day amounts came in cents."""
    world = Installation(tmp_path_factory.mktemp("pages"), payments(REFERENCE_DAYS + 8))
    world.history(REFERENCE_DAYS + 6)
    world.moment.amount = lambda amount: amount * 100
    world.step(DAY_US)
    reference, current, notes = compare.periods(world.log, now_us=world.now_us)
    drift = compare.compare(world.log, FEATURES, reference, current, notes=notes, ahead_us=HOUR_US)
    since_us = weeks.monday_us(None, world.now_us)
    found = sums.read(world.log, SCHEMA, Costs(), since_us)
    week = weeks.week(found, since_us, Costs(), "EUR", [], Outlook(0.4, Interval(900.0, 700.0, 1_200.0)))
    return {"drift": drift_page.render(drift), "weekly": weekly_page.render(week)}


def browse(folder: Path, html: str, *, width: int, arguments: tuple[str, ...]) -> str:
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--proxy-server=127.0.0.1:9", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2400"]
    done = subprocess.run(
        [*command, *arguments, path.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["drift", "weekly"])
def test_a_report_is_drawn(pages: dict[str, str], name: str, tmp_path: Path) -> None:
    picture = tmp_path / f"{name}.png"
    browse(tmp_path, pages[name], width=1200, arguments=(f"--screenshot={picture}", "--hide-scrollbars"))
    drawn = imread(picture)
    assert drawn.shape[:2] == (2400, 1200)
    inked = np.ptp(drawn[:, :, :3], axis=2).mean()  # colours, of plots and tiles
    assert inked > 0.001
    assert len(np.unique(drawn.reshape(-1, drawn.shape[2]), axis=0)) > 200
    columns = (drawn[:, :, :3].mean(axis=2) < 0.9).any(axis=0)
    assert columns[100:1100].mean() > 0.5


@pytest.mark.parametrize("width", [360, 1200])  # of a phone, and of a screen
@pytest.mark.parametrize("name", ["drift", "weekly"])
def test_a_report_fits_into_its_window(pages: dict[str, str], name: str, width: int, tmp_path: Path) -> None:
    framed = escape(pages[name].replace("</body>", f"{MEASURE}</body>"))
    html = FRAME.format(width=width, page=framed)
    shown = browse(tmp_path, html, width=1_300, arguments=("--dump-dom",))
    measured = re.search(r"<title>width (\d+)</title>", shown)
    assert measured is not None
    assert int(measured[1]) <= width


@pytest.mark.parametrize("name", ["drift", "weekly"])
def test_a_report_asks_for_nothing(pages: dict[str, str], name: str) -> None:
    places = re.findall(r'(?:src|href|action)="([^"]*)"|url\(([^)]*)\)', pages[name])
    assert not [place for pair in places for place in pair if place and not place.startswith("#")]
    assert "<script" not in pages[name]
