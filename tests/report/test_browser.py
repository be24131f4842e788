"""A browser draws every plot, runs nothing of the data's, fetches nothing, and the page can be used in it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

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
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

OVERFLOWING = """
[...document.querySelectorAll("body *")]
  .filter((e) => e.getBoundingClientRect().right > 391 && !e.closest(".scroll, pre, nav, svg"))
  .map((e) => e.tagName + "." + e.className)
"""
SHOWN = """
[...document.querySelectorAll("#section-1 %s tbody tr[data-group]:not([hidden])")].map((row) => row.dataset.group)
"""


class Browser:
    """One page in headless Chromium, over the pipe of its DevTools protocol: no port, no driver.

    Args:
        profile: a folder of its own.
        width: of the window, in CSS pixels; below 600 it is a phone.
        dark: the reader's preference of colours.
    """

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]  # away from what they become
        self._process = subprocess.Popen(  # the browser reads commands from descriptor 3 and answers on 4
            ["bash", "-c", f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}', CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, *high):
            os.close(end)
        self._buffer, self._number, self._session = b"", 0, None
        self.complaints: list[dict] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.media(dark=dark)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )

    def media(self, *, dark: bool = False, kind: str = "") -> None:
        preference = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=kind, features=[preference])

    def open(self, file: Path) -> None:
        """Load a page and wait until its plots are drawn."""
        self.call("Page.navigate", url=file.as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")
        self.wait_for("[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))")

    def evaluate(self, expression: str):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never came true: {expression}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, file: Path, *, clip: tuple[float, float, float, float] | None = None) -> None:
        """A picture of the whole page, or of x, y, width, height of it."""
        if clip is None:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = (0, 0, size["width"], size["height"])
        box = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}
        picture = self.call("Page.captureScreenshot", clip=box, captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(picture))

    def pdf(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))

    def call(self, method: str, **parameters):
        """Send a command, and take what the browser says until it answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._next()
            if heard.get("id") == self._number:
                assert "error" not in heard, heard["error"]
                return heard["result"]
            what, said = heard.get("method"), heard.get("params", {})
            if what in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.complaints.append(said)
            elif what == "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            block = os.read(self._read, 1 << 16)
            assert block, "the browser has ended"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(browser, pages, tmp_path):
    """Open a page of a kind, in a width."""

    def open_page(kind, width=1280):
        file = tmp_path / "report.html"
        file.write_text(pages[kind], encoding="utf-8")
        browser.complaints.clear()
        browser.requests.clear()
        browser.resize(width)
        browser.open(file)
        return browser

    yield open_page
    assert browser.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests)
    assert browser.evaluate("document.title") != "ran"
    assert browser.evaluate("document.querySelectorAll('img').length") == 0


@pytest.mark.parametrize("kind", ["audit", "evaluate", "debias", "responses", "comparison", "study"])
def test_every_plot_is_drawn(opened, kind):
    browser = opened(kind)
    plots = browser.evaluate("document.querySelectorAll('.plot').length")
    assert plots
    assert browser.evaluate("document.querySelectorAll('.js-plotly-plot .main-svg:first-child').length") == plots
    assert "<script>" in browser.evaluate("document.body.innerText")


@pytest.mark.parametrize("kind", ["debias", "responses", "comparison", "study"])
def test_nothing_is_wider_than_a_phone(opened, kind):
    browser = opened(kind, width=390)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    assert browser.evaluate(OVERFLOWING) == []


def test_long_numbers_of_a_finding_stay_in_the_card_on_a_phone(opened):
    browser = opened("comparison", width=390)
    assert browser.evaluate("document.querySelectorAll('.findings .muted').length") > 0
    long = "−2.4e−05 [−1.6e−04, +1.4e−04], p = 0.768"
    browser.evaluate(f"document.querySelectorAll('.findings .muted').forEach((e) => {{ e.textContent = '{long}'; }})")
    beyond = "(e) => e.getBoundingClientRect().right > e.closest('.findings').getBoundingClientRect().right + 1"
    assert not browser.evaluate(f"[...document.querySelectorAll('.findings .muted')].some({beyond})")
    assert browser.evaluate("document.documentElement.scrollWidth") == 390


def test_the_filter_narrows_items_tables_and_plots(opened):
    browser = opened("comparison")
    before = {part: browser.evaluate(SHOWN % part) for part in (".items", ".measures")}
    assert set(before[".items"]) > {"gender", "race"}
    assert set(before[".measures"]) == {"overall", "gender"}
    plot = "document.querySelector('#section-1 .plot')"
    height = browser.evaluate(f"{plot}.clientHeight")
    for chosen in ("gender", ""):
        browser.evaluate(
            f"""(() => {{
                const select = document.querySelector("#section-1 select");
                select.value = "{chosen}";
                select.dispatchEvent(new Event("change"));
            }})()"""
        )
        for part, groups in before.items():
            assert browser.evaluate(SHOWN % part) == [group for group in groups if group == chosen or not chosen]
        rows = f"[...{plot}.querySelectorAll('.ytick text')].map((label) => label.textContent)"
        browser.wait_for(f"{rows}.length == {1 if chosen else 2}")
        assert browser.evaluate(rows) == ([chosen] if chosen else ["overall", "gender"])
        browser.wait_for(f"{plot}.clientHeight {'<' if chosen else '=='} {height}")


@pytest.mark.parametrize("title", ["Cosine of each word", "Counterparts, before", "Stereotype score"])
def test_hover_shows_text_and_runs_none(opened, title):
    browser = opened("comparison")
    said = browser.evaluate(
        f"""(async () => {{
            const figure = [...document.querySelectorAll("figure")].find((f) => f.innerText.includes("{title}"));
            const plot = figure.querySelector(".plot"), said = [];
            for (const [curveNumber, trace] of plot.data.entries()) {{
                if (trace.hoverinfo === "skip") continue;
                for (const pointNumber of trace.x.keys()) {{
                    const axes = (trace.xaxis ?? "x") + (trace.yaxis ?? "y");
                    Plotly.Fx.hover(plot, [{{ curveNumber, pointNumber }}], axes);
                    await new Promise((done) => setTimeout(done, 80)); // what comes sooner is put off
                    said.push([...plot.querySelectorAll(".hovertext")].map((e) => e.textContent).join(" "));
                }}
            }}
            return said;
        }})()"""
    )
    assert any("samples" in text or "items" in text for text in said)
    if title.startswith("Counter"):
        assert any("she (female)with he" in text for text in said)
        assert any("<script>" in text for text in said)


def test_keys_reach_everything_in_the_order_of_the_page(opened):
    browser = opened("comparison")
    focused, seen = "document.activeElement", []
    for _ in range(400):
        browser.press("Tab")
        if browser.evaluate(f"{focused} === document.body"):
            break
        seen.append(browser.evaluate(f"[...document.querySelectorAll('*')].indexOf({focused})"))
        assert browser.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    assert seen == sorted(seen)
    tags = {browser.evaluate(f"document.querySelectorAll('*')[{at}].tagName") for at in seen}
    assert {"A", "BUTTON", "SELECT", "SUMMARY"} <= tags


def test_dark_and_print(opened):
    browser = opened("comparison")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(paper)
    browser.media(dark=True)
    assert browser.evaluate(paper) != light
    browser.media(dark=True, kind="print")
    assert browser.evaluate(paper) == light
    browser.media()
