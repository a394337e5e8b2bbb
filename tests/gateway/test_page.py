"""The page: what it is made of, and, in a headless Chromium, that samples really play."""

import os
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from support.fake_server import RATE_HZ, FakeServer, inputs_of
from support.gateway import Gateway, chunks
from support.script_server import text_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_a_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and find_spec("playwright")),
        reason="needs a browser: apt-get install chromium; pip install playwright",
    ),
]
ALICE = Path(__file__).resolve().parents[2] / "assets" / "voices" / "alice.flac"
PARTS = ("/", "/page/app.js", "/page/player.js", "/page/style.css")


def test_the_page_is_of_one_origin(gateway: Gateway) -> None:
    for part in PARTS:
        answer = gateway.http.get(part)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert re.findall(r"(?:src|href)=\"(?:https?:)?//|import .* from \"http", answer.text) == []
    assert gateway.http.get("/page/../app.py").status_code == 404
    assert gateway.http.get("/page/none.js").status_code == 404


def test_every_field_has_a_label(gateway: Gateway) -> None:
    html = gateway.http.get("/").text
    for tag, attributes in re.findall(r"<(input|select|textarea)\b([^>]*)>", html):
        identity = re.search(r'id="([\w-]+)"', attributes)
        wrapped = 'type="radio"' in attributes or 'type="checkbox"' in attributes
        assert wrapped or f'<label for="{identity[1]}"' in html, (tag, attributes)


@pytest.fixture
def browser_page(gateway: Gateway, fake: FakeServer, tmp_path: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    def spoken(inputs: dict) -> Iterator[dict]:
        if "reference_audio" in inputs:
            yield {
                "codes": np.ones((1, 10, 40), np.int64),
                "reference_frames": np.array([[40]], np.int32),
                "checkpoint_id": np.array([[b"fake"]], np.object_),
            }
            return
        seconds = 0.06 * len(text_of(inputs))
        t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
        waveform = 0.6 * np.sin(2 * np.pi * 180 * t) * np.abs(np.sin(2 * np.pi * 2.3 * t))
        yield from chunks(*np.array_split(waveform.astype(np.float32), 3))

    fake.answer = spoken
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--mute-audio",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={spoken_into_microphone(tmp_path)}",
            ],
        )
        page = browser.new_page(viewport={"width": 900, "height": 780})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: m.type == "error" and errors.append(m.text))
        page.goto(gateway.url)
        page.wait_for_selector("#voice option", state="attached")
        yield page
        browser.close()
    assert [e for e in errors if "404" not in e] == []


def spoken_into_microphone(folder: Path) -> Path:
    """What the browser hears: Alice."""
    recording, rate_hz = soundfile.read(ALICE)
    soundfile.write(folder / "microphone.wav", recording, rate_hz, subtype="PCM_16")
    return folder / "microphone.wav"


def until(page: Any, selector: str, pattern: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(re.compile(pattern), timeout=20_000)


class TestInABrowser:
    pytestmark = in_a_browser

    def test_samples_really_play_while_they_come(self, browser_page: Any, tmp_path: Path) -> None:
        page = browser_page
        page.fill("#text", "Good morning, Bob.")
        page.keyboard.press("Control+Enter")
        until(page, "#caption", r"^Good morning, Bob\.$")
        until(page, "#status", "^Done$")
        assert float(page.evaluate("document.documentElement.dataset.loudest")) > 0.5
        assert page.inner_text("#played") == page.inner_text("#seconds") == "1.08 s"
        assert page.inner_text("#first").endswith(" ms") and float(page.inner_text("#rtf")) > 0
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / "speech.wav")
        samples, rate_hz = soundfile.read(tmp_path / "speech.wav")
        assert (rate_hz, len(samples)) == (RATE_HZ, int(1.08 * RATE_HZ)) and samples.max() > 0.5

    def test_a_script_shows_who_speaks_and_stops_at_once(self, browser_page: Any) -> None:
        page = browser_page
        page.check("input[value=script]")
        page.fill("#text", "alloy: Good morning, Bob.\necho: Good morning, Alice. Let us begin.")
        page.click("#speak")
        until(page, "#caption", "^alloy: Good")
        until(page, "#caption", "^echo: Good")
        page.wait_for_timeout(1000)
        self.picture(page)
        page.keyboard.press("Escape")
        assert page.inner_text("#status") == "Stopped" and page.is_disabled("#stop")
        played = page.inner_text("#played")
        page.wait_for_timeout(300)
        assert page.inner_text("#played") == played

    def picture(self, page: Any) -> None:
        """Renew the pictures of docs/gateway.md: VOICEREEL_SCREENSHOTS=docs/images."""
        if folder := os.environ.get("VOICEREEL_SCREENSHOTS"):
            for scheme, name in (("light", "gateway.png"), ("dark", "gateway-dark.png")):
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=Path(folder, name))

    def test_a_voice_from_the_microphone(
        self, browser_page: Any, gateway: Gateway, fake: FakeServer
    ) -> None:
        page = browser_page
        page.click("summary:has-text('voice')")
        page.click("#record")
        until(page, "#record", "Stop recording")
        page.wait_for_timeout(2500)
        page.click("#record")
        until(page, "#recorded", "recorded")
        page.fill("#name", "Microphone")
        page.fill("#transcript", "Good morning.")
        page.check("#consent")
        page.click("button:has-text('Add voice')")
        until(page, "#voice-status", "Added")
        added = gateway.http.get("/v1/audio/voices/Microphone")
        assert added.status_code == 200, added.text
        assert page.locator("#voice option", has_text="Microphone").count() == 1
        heard = next(r for r in map(inputs_of, fake.requests) if "reference_audio" in r)
        assert (
            heard["reference_audio"].size >= RATE_HZ
            and np.abs(heard["reference_audio"]).max() > 0.1
        )

    def test_errors_are_shown(self, browser_page: Any) -> None:
        page = browser_page
        page.check("input[value=script]")
        page.fill("#text", "nobody: Good morning.")
        page.click("#speak")
        until(page, "#status", "no voice 'nobody'")
        page.fill("#text", "a line without a voice")
        page.click("#speak")
        until(page, "#status", "line 1")
