"""A browser draws every plot, runs nothing of the data's, and reports no error."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--dump-dom",
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("kind", ["audit", "comparison"])
def test_page_in_a_browser(pages, kind, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(pages[kind], encoding="utf-8")
    run = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in run.stderr
    drawn = re.sub(r"<script.*?</script>", "", run.stdout, flags=re.DOTALL)
    assert re.search(r"<title>Title &lt;/script&gt;", drawn)
    assert "<img" not in drawn
    plots = drawn.count('role="img"')
    assert plots
    assert drawn.count('class="plot js-plotly-plot"') == plots
    assert drawn.count('class="main-svg"') >= plots
