"""The page of an export to transformers.js in a real browser: without another network than its own server, it says what PyTorch says."""

import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from axe_playwright_python.sync_playwright import Axe
from browser import NoBrowserError, chromium
from playwright.sync_api import Browser, Page, expect

from lora.audio.loading import Waveform, duration
from lora.export.about import About
from lora.export.targets import write_target
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings

A_WHILE_MS = 120_000


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the test says what was asked for."""


@pytest.fixture(scope="module")
def spoken(waveforms: Sequence[Waveform], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's microphone hears, over and over."""
    file = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(file, np.concatenate([waveforms[0], np.zeros(16_000, np.float32)]), 16_000, subtype="PCM_16")
    return file


@pytest.fixture(scope="module")
def browser(spoken: Path) -> Iterator[Browser]:
    microphone = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={spoken}")
    try:
        with chromium(*microphone) as started:
            yield started
    except NoBrowserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def address(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The packaged tiny model's folder behind a server that knows nothing else."""
    folder = tmp_path_factory.mktemp("page")
    write_target(tiny, "transformers-js", "fp32", folder, About("<calls>"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page with its model loaded. Afterwards: nothing was complained about, and nothing was asked for elsewhere."""
    context = browser.new_context()
    opened = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda made: asked.append(made.url))
    opened.goto(address)
    expect(opened.locator("#status")).to_have_text("Ready.", timeout=A_WHILE_MS)
    yield opened
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []


def test_recordings_are_transcribed_as_in_pytorch(page: Page, tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    settings = DecodeSettings(tokens_per_second=6.5)
    for number, clip in enumerate(waveforms[:2]):
        file = tmp_path / f"{number}.wav"
        soundfile.write(file, clip, 16_000, subtype="FLOAT")
        page.locator("#file").set_input_files(file)
        expect(page.locator("#status")).to_contain_text("s of sound in", timeout=A_WHILE_MS)
        with torch.inference_mode():
            said = transcribe(Decoder(tiny), Encoder(tiny)([clip]), [duration(clip)], settings)[0].text
        assert page.locator("#text").text_content() == said


def test_the_microphone_is_transcribed(page: Page, tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """It starts anywhere in what is said, so that not all words are the same."""
    page.locator("#microphone").click()
    expect(page.locator("#status")).to_have_text("Recording …")
    page.wait_for_timeout(1000 * (duration(waveforms[0]) + 1))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_contain_text("s of sound in", timeout=A_WHILE_MS)
    with torch.inference_mode():
        said = transcribe(Decoder(tiny), Encoder(tiny)([waveforms[0]]), [duration(waveforms[0])], DecodeSettings(tokens_per_second=6.5))[
            0
        ].text
    found = page.locator("#text").text_content() or ""
    assert len(set(found.lower().split()) & set(said.lower().split())) >= 3, (found, said)


def test_what_is_no_sound_and_what_is_too_long_is_said(page: Page, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound at all")
    page.locator("#file").set_input_files(tmp_path / "text.wav")
    expect(page.locator("#status")).to_contain_text("Error: ", timeout=A_WHILE_MS)
    soundfile.write(tmp_path / "long.wav", [0.0] * 16_000 * 31, 16_000)
    page.locator("#file").set_input_files(tmp_path / "long.wav")
    expect(page.locator("#status")).to_have_text("Error: the recording lasts 31 s; this page takes up to 30 s", timeout=A_WHILE_MS)
    expect(page.locator("#file")).to_be_enabled()


def test_it_names_the_model_and_reads_well_without_eyes(page: Page) -> None:
    assert page.title() == "<calls>: speech to text"
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
