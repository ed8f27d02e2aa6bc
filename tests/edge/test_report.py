"""The page: well formed, self-contained, honest, and its pictures are what they should be."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.demo.device import ScoresOverTime
from edge.demo.exam import Detection, mark
from edge.demo.pictures import palette, png, spectrogram
from edge.demo.report import report_html
from edge.demo.story import Lap, Proof, Story
from edge.scenes import Occurrence, Scene

RATE = 8_000
VOID = {"meta", "br", "img", "hr", "link", "input"}


class Strict(HTMLParser):
    """Fails on tags that do not close in order; keeps tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def lap(title: str, known: tuple[str, ...], detections: tuple[Detection, ...]) -> Lap:
    rng = np.random.default_rng(1)
    truth = (Occurrence("bell", 8_000, 12_000), Occurrence(None, 24_000, 30_000), Occurrence("dog", 40_000, 44_000))
    scene = Scene(0.1 * rng.standard_normal(56_000).astype(np.float32), RATE, truth)
    return Lap(title, 0, scene, known, detections, mark(truth, detections, taught=known, slack=4_000))


def story(**changes: Any) -> Story:
    known = ("bell", "dog")
    laps = (
        lap("1 taught, now bell", ("bell",), (Detection("bell", 8_500, 12_500, 0.9),)),
        lap("2 taught, now dog", known, (Detection("bell", 8_500, 12_500, 0.9), Detection(None, 24_500, 30_500, 0.5))),
        lap("after the merge", known, (Detection("bell", 24_500, 29_000, 0.7), Detection("dog", 50_000, 51_000, 0.8))),
    )
    same = Proof("statistics", "abc", "abc")
    plain = Story(
        origin="made for a test",
        backbone="tiny",
        sample_rate=RATE,
        samples=np.zeros(8 * RATE, dtype=np.float32),
        truth=laps[0].scene.truth,
        laps=laps,
        n_taught=2,
        forgotten="bell",
        hall=("dog",),
        restarted=(same,),
        forget=(same,),
        merge=(same,),
        scores=ScoresOverTime(np.arange(6) + 0.5, known, np.linspace(0.0, 1.0, 12).reshape(6, 2)),
        teach_ms=(12.0, 15.0),
        delays_s=(0.3, 0.5),
        embedding_ms=2.5,
        wall_s=12.0,
    )
    return replace(plain, **changes)


def test_the_page_is_well_formed_and_tells_every_lap() -> None:
    page = parsed(report_html(story()))
    for words in ("2 taught", "now dog", "after the merge", "2/3", "made for a test", "0.40 s"):
        assert words in page.text, words
    assert [tag for tag, _ in page.tags].count("polyline") == 2
    assert [tag for tag, _ in page.tags].count("image") == 3


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    page = parsed(report_html(story()))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("href", "src"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/png;base64,") or value == "scene.wav"
    assert not re.search(r"url\(|@import", report_html(story()))


def test_without_a_sound_file_there_is_no_player() -> None:
    assert "<audio" not in report_html(story(), scene_name=None)


def test_labels_are_text_whatever_they_hold() -> None:
    nasty = '<script>alert("x")</script>&'
    laps = (lap(f"1 taught, now {nasty}", (nasty,), (Detection(nasty, 8_500, 9_000, 1.0),)),)
    page = report_html(story(laps=laps, n_taught=1, forgotten=nasty, origin=nasty, backbone=nasty))
    assert "<script" not in page
    assert nasty in parsed(page).text


@pytest.mark.parametrize("field", ["forget", "merge", "restarted"])
@pytest.mark.parametrize("proofs", [(), (Proof("statistics", "abc", "abd"),)])
def test_what_does_not_hold_is_not_called_exact(field: str, proofs: tuple[Proof, ...]) -> None:
    good, bad = report_html(story()), report_html(story(**{field: proofs}))
    assert good.count('<b class="good">') == 3 and '<b class="bad">' not in good
    assert bad.count('<b class="bad">') == 1
    wanted = "something lost" if field == "restarted" else "not exact"
    assert wanted in bad and wanted not in good
    assert ("different" in bad) == bool(proofs)


def test_wrong_answers_and_false_alarms_are_marked() -> None:
    page = parsed(report_html(story()))
    outlined = [attributes for tag, attributes in page.tags if tag == "rect" and "stroke" in attributes]
    answers = [answer for a_lap in story().laps for answer in a_lap.marked.answers]
    false_alarms = [detection for a_lap in story().laps for detection in a_lap.marked.false_alarms]
    assert len(outlined) == sum(not answer.right for answer in answers) + len(false_alarms)
    assert len(false_alarms) == 1


def test_a_story_in_which_nothing_was_reported_still_makes_a_page() -> None:
    nothing = ScoresOverTime(np.zeros(0), (), np.zeros((0, 0)))
    page = parsed(report_html(story(laps=(lap("1 taught", (), ()),), scores=nothing, delays_s=(), teach_ms=())))
    assert "nothing was reported" in page.text


def decoded(file: bytes) -> tuple[NDArray[np.uint8], bytes]:
    """Read a PNG of colour type 3 with filter 0: pixels and palette."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(file):
        (length,) = struct.unpack(">I", file[at : at + 4])
        name, data = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        assert struct.unpack(">I", file[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + data)
        chunks[name], at = data, at + 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:], chunks[b"PLTE"]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_png_files_hold_the_pixels(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    found, colours = decoded(png(pixels, palette()))
    assert np.array_equal(found, pixels)
    assert colours == palette().tobytes()


def test_the_palette_grows_lighter_in_every_step() -> None:
    light = palette().astype(float) @ np.array([0.2126, 0.7152, 0.0722])
    assert palette().shape == (256, 3)
    assert (np.diff(light) >= -0.8).all() and light[0] < 15.0 and light[-1] > 220.0


@pytest.mark.parametrize("n", [1, 100, 8_000, 80_000])
def test_spectrograms_have_the_size_asked_for(n: int) -> None:
    image = spectrogram(np.full(n, 0.1, dtype=np.float32), RATE, width=300, height=60)
    assert image.shape == (60, 300) and image.dtype == np.uint8


def test_a_rising_tone_rises_in_the_picture() -> None:
    t = np.arange(4 * RATE) / RATE
    rising = np.sin(2.0 * np.pi * (300.0 * t + 400.0 * t**2)).astype(np.float32)
    image = spectrogram(rising, RATE, width=200, height=80)
    highest = image.argmax(axis=0)[10:190]
    assert (np.diff(highest[::20]) < 0).all()


def test_a_click_is_not_lost_in_a_long_picture() -> None:
    x = np.zeros(120 * RATE, dtype=np.float32)
    x[60 * RATE] = 1.0
    image = spectrogram(x, RATE, width=200, height=40)
    assert image[:, 98:103].max() > 200 and image[:, :90].max() < 50


def test_data_uris_decode_to_png() -> None:
    uri = next(a["href"] for tag, a in parsed(report_html(story())).tags if tag == "image")
    assert uri is not None
    assert base64.b64decode(uri.partition(",")[2]).startswith(b"\x89PNG")
