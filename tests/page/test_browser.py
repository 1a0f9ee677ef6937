"""The page in a browser: codes and sound equal Python's, by file and microphone, by keyboard, on a phone's width."""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mimotok.io.codes.packed_npz import MAX_INFLATED
from mimotok.io.codes_file import load_codes
from mimotok.page.serve import address, make_server
from mimotok.transcode import decode_file, encode_file
from tests.helpers.browser import Watched, chromium
from tests.helpers.codes_files import arrays_of_format_1
from tests.page.conftest import Built

pytestmark = pytest.mark.slow

PHONE = {"width": 360, "height": 740}
# the page waits for nothing but the machine; this is a net for a page that hangs
PATIENCE = 240_000
# controls and pictures of which a screen reader could not say what they are
UNNAMED = """
() => [...document.querySelectorAll("button, input, summary, canvas, progress, meter")]
  .filter((element) => !(element.ariaLabel || element.textContent.trim() || element.labels?.length))
  .map((element) => element.outerHTML)
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a tone that goes up and down, in noise."""
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    time = np.arange(2 * 24_000) / 24_000
    tone = 0.3 * np.sin(2 * np.pi * (200 * time + 40 * np.sin(6 * time)))
    soundfile.write(path, tone + 0.02 * np.random.default_rng(0).standard_normal(len(time)), 24_000)
    return path


@pytest.fixture(scope="module")
def browser(sound: Path) -> Iterator[Any]:
    with chromium(microphone=sound) as started:
        yield started


@pytest.fixture(scope="module")
def origin(built: Built) -> Iterator[str]:
    with make_server(built.folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address(server)
        server.shutdown()


@pytest.fixture
def visit(browser: Any, origin: str) -> Iterator[Callable[..., Any]]:
    """visit(**options) opens the page in a tab of its own. Errors and foreign requests fail the test at its end."""
    watched = []

    def go(**options: Any) -> Any:
        watched.append(Watched(browser, **options))
        tab = watched[-1].tab
        tab.set_default_timeout(PATIENCE)
        tab.goto(origin)
        tab.wait_for_selector("html[data-ready]")
        return tab

    yield go
    for one in watched:
        one.close(origin)


def finish(tab: Any) -> None:
    """Wait until the page is through with its work."""
    tab.wait_for_selector("#sample:enabled")


def download(tab: Any, button: str, path: Path) -> Path:
    with tab.expect_download() as started:
        tab.click(button)
    started.value.save_as(path)
    return path


def test_a_file_is_coded_and_decoded_as_by_python(built: Built, sound: Path, tmp_path: Path, visit: Any) -> None:
    tokenizer = built.tokenizer
    tab = visit()
    tab.set_input_files("#file", sound)
    tab.wait_for_selector("#result:not([hidden])")
    finish(tab)
    for n_q in (tokenizer.config.checked_n_q(None), 1):
        tab.fill("#codebooks", str(n_q))
        tab.wait_for_selector(f"#codes-caption:text-matches('^Codes: {n_q} ')")
        finish(tab)
        found = load_codes(download(tab, "#save-npz", tmp_path / "found.npz"))
        expected = encode_file(tokenizer, sound, tmp_path / "expected.npz", n_q=n_q, overwrite=True)
        np.testing.assert_array_equal(found.codes, expected.codes)
        assert found.model_sha256 == expected.model_sha256
        shown = float(str(tab.text_content("#bitrate")).removesuffix(" kbit/s"))
        assert shown == pytest.approx(expected.bitrate / 1000, abs=0.006)
        assert tab.text_content("#npz-bytes") == f"{(tmp_path / 'found.npz').stat().st_size:,} bytes"
        wav = download(tab, "#save-wav", tmp_path / "found.wav")
        decode_file(tokenizer, tmp_path / "found.npz", tmp_path / "expected.wav", overwrite=True)
        difference = soundfile.read(wav)[0] - soundfile.read(tmp_path / "expected.wav")[0]
        assert np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("version", [1, 2])
def test_codes_of_python_are_heard(built: Built, sound: Path, tmp_path: Path, visit: Any, version: int) -> None:
    encode_file(built.tokenizer, sound, tmp_path / "codes.npz", n_q=2)
    if version == 1:
        np.savez(tmp_path / "codes.npz", **arrays_of_format_1(tmp_path / "codes.npz"))
    tab = visit()
    tab.set_input_files("#file", tmp_path / "codes.npz")
    tab.wait_for_selector("#result:not([hidden])")
    finish(tab)
    wav = download(tab, "#save-wav", tmp_path / "found.wav")
    decode_file(built.tokenizer, tmp_path / "codes.npz", tmp_path / "expected.wav")
    difference = soundfile.read(wav)[0] - soundfile.read(tmp_path / "expected.wav")[0]
    assert np.abs(difference).max() < 1e-3
    assert tab.is_disabled("input[value=original]")
    assert tab.is_hidden("#blind")
    tab.click("#play")
    tab.wait_for_selector("#play.on")


def test_the_microphone_is_recorded_and_coded(built: Built, tmp_path: Path, visit: Any) -> None:
    tab = visit()
    tab.click("#record")
    tab.wait_for_selector("#recorded:text-matches('^0:01')")
    tab.click("#record")
    tab.wait_for_selector("#result:not([hidden])")
    finish(tab)
    found = load_codes(download(tab, "#save-npz", tmp_path / "found.npz"))
    assert found.num_samples > built.tokenizer.sample_rate
    wav = soundfile.read(download(tab, "#save-wav", tmp_path / "found.wav"))[0]
    codes = torch.from_numpy(found.codes.astype("int64"))[None]
    expected = built.tokenizer.decode(codes, length=found.num_samples)[0].numpy()
    np.testing.assert_allclose(wav, expected.clip(-1, 1), atol=1e-3)
    # the codes are of what was played into the microphone, not of silence
    silence = built.tokenizer.encode(torch.zeros(1, found.num_samples), n_q=found.n_q)[0].numpy()
    assert (found.codes != silence).mean() > 0.5


def test_errors_are_one_line_and_the_page_goes_on(built: Built, sound: Path, tmp_path: Path, visit: Any) -> None:
    encode_file(built.tokenizer, sound, tmp_path / "good.npz")
    data = (tmp_path / "good.npz").read_bytes()
    flipped = bytearray(data)
    flipped[300] ^= 1
    (tmp_path / "cut.npz").write_bytes(data[:-30])
    (tmp_path / "flipped.npz").write_bytes(flipped)
    fields = arrays_of_format_1(tmp_path / "good.npz")
    np.savez(tmp_path / "other.npz", **{**fields, "model": np.array(["stranger", "0" * 64])})
    np.savez(tmp_path / "large.npz", **{**fields, "codes": fields["codes"] + np.uint16(5000)})
    with zipfile.ZipFile(tmp_path / "small.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("packed.npy", data)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("packed.npy", bytes(MAX_INFLATED + 1))
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty.wav").touch()
    tab = visit()
    for name, message in {
        "text.wav": "no sound file",
        "empty.wav": "empty file",
        "cut.npz": "truncated",
        "flipped.npz": "damaged",
        "other.npz": "made by model stranger",
        "large.npz": "has 5",
        "small.npz": "compressed in a way",
        "bomb.npz": "inflates to",
    }.items():
        tab.set_input_files("#file", tmp_path / name)
        tab.wait_for_selector(f"#error:text-matches('{message}')")
        assert str(tab.text_content("#error")).startswith(f"{name}: ")
        assert tab.is_hidden("#result")
        finish(tab)
    tab.set_input_files("#file", sound)
    tab.wait_for_selector("#result:not([hidden])")
    assert tab.is_hidden("#error")


def test_keyboard_alone_on_a_phones_width(visit: Any) -> None:
    """Tab reaches the controls in the order of the page; X compares; the blind test hides names and keeps the score."""
    tab = visit(viewport=PHONE, color_scheme="dark")
    focused = []
    for _ in range(3):
        tab.keyboard.press("Tab")
        focused.append(tab.evaluate("() => document.activeElement.id"))
    assert focused == ["record", "file", "sample"]
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#result:not([hidden])")
    finish(tab)
    assert tab.evaluate("() => document.activeElement.id") == "result"
    assert tab.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    tab.keyboard.press("Space")
    tab.wait_for_selector("#play.on")
    tab.keyboard.press("x")
    assert tab.is_checked("input[value=original]")
    tab.wait_for_selector("#time:text-matches('^0:01')")
    tab.keyboard.press("Space")
    tab.wait_for_selector("#play:not(.on)")
    tab.focus("#blind summary")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#letters:not([hidden])")
    assert tab.is_hidden("#versions")
    rights = 0
    for count in range(1, 5):
        tab.click("#guess-a")
        tab.wait_for_selector(f"#score:text-matches('of {count};')")
        verdict = str(tab.text_content("#score"))
        rights += verdict.startswith("Right")
        assert re.search(rf"Score: {rights} of {count};", verdict)
    assert tab.evaluate(UNNAMED) == []
