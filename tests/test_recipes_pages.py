"""What is shown of a dream: sheets, strips, plots, the report, the findings; and what it is said to cost."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidnn import images, zoo
from minidnn.arrays import to_device, to_host
from minidnn.cli.watching import watch
from minidnn.dream.sight import as_seen
from minidnn.errors import TooLargeError, UsageError
from minidnn.images import clouds_over_hills
from minidnn.recipes import forecast as costs
from minidnn.recipes import memory
from minidnn.recipes.findings import burnt_out, opinions, panels, rises, tables, why
from minidnn.recipes.microscope import LARGEST, LOOKS, Microscope, brought, probabilities
from minidnn.recipes.sheets import CAPTION, GAP, sheet, strip
from minidnn.recipes.zoom import flight, nearer
from tests.dreamers import classy, photo, quick, saved

# Sheets and strips.


def test_a_sheet_has_a_row_of_captions_under_each_row_of_pictures():
    pictures = [(f"number {k}", clouds_over_hills(20, 30, seed=k)) for k in range(5)]
    paper = sheet(pictures, columns=3, height=100)
    assert paper.shape == (1, GAP + 2 * (100 + 20 + GAP), GAP + 3 * (150 + GAP), 3)
    assert paper[0, GAP + 103 : GAP + 118, GAP : GAP + 150].min() < 100, "ink"
    assert paper[0, :GAP].min() == 255


def test_a_sheet_takes_any_sizes_and_grey():
    pictures = [("grey", np.full((1, 9, 4, 1), 99.0)), ("ribbon", np.full((1, 2, 900, 3), 50.0))]
    assert sheet(pictures, height=60).shape[1] == GAP + 60 + 20 + GAP
    assert sheet(pictures, height=60).shape[2] <= 2 * (4 * 60 + GAP) + GAP


def test_small_pictures_keep_captions_that_can_be_read():
    paper = sheet([("moderate: 0.001, blur every 10", clouds_over_hills(20, 26))], height=20)
    assert 150 < paper.shape[2] < CAPTION + 2 * GAP
    assert sheet([("x" * 300, clouds_over_hills(20, 26))], height=20).shape[2] == CAPTION + 2 * GAP


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_strip_shows_the_first_and_the_last(count):
    frames = [(str(k), np.full((1, 10, 14, 3), float(k))) for k in range(count)]
    shown = strip(frames)
    assert shown.shape[2] == GAP + min(6, count) * (252 + GAP)
    assert shown[0, GAP, GAP, 0] == 0 and shown[0, GAP, -GAP - 1, 0] == count - 1


def test_sheets_and_strips_of_nothing():
    for draw in (sheet, strip):
        with pytest.raises(UsageError, match="of no pictures; give at least one"):
            draw([])


# The microscope.


def looked(net=None, layers=("conv2",), *, steps=40, after=None):
    """A dream of so many steps that fades to `after`, under the microscope."""
    net, start = net or classy(), clouds_over_hills(33, 29)
    after = 255 - start if after is None else after
    scope = Microscope(net, start, layers, steps=steps)
    for step in range(1, steps + 1):
        scope.show(step, start + step / steps * (after - start))
    return scope.seen(steps, after)


def test_it_looks_a_few_times_however_long_the_dream():
    for steps in (1, 5, LOOKS, 100, 997):
        seen = [look.step for look in looked(steps=steps).looks]
        assert seen[0] == 0 and seen[-1] == steps and seen == sorted(set(seen))
        assert min(steps, LOOKS // 2) < len(seen) <= LOOKS + 2


def test_what_rose_most_comes_first():
    found = rises(looked(), "conv2")
    grown = [float(row[3]) for row in found.rows]
    assert len(grown) == 5 and grown == sorted(grown, reverse=True)
    assert str(found).startswith("What rose most in conv2\n  channel")


def test_a_rise_is_above_the_first_picture_in_the_same_size():
    net, start = classy(), clouds_over_hills(33, 29)
    scope = Microscope(net, start, ["conv1"], steps=3)
    scope.show(1, images.resize(start, (22, 20)))
    small, whole = scope.seen(2, start).looks[1:]
    assert np.abs(small.rises("conv1")).max() == np.abs(whole.rises("conv1")).max() == 0
    assert not np.array_equal(small.before["conv1"], whole.before["conv1"])


def test_a_large_picture_is_looked_at_smaller():
    net, large = zoo.get("gabor"), clouds_over_hills(24, 2 * LARGEST)
    (look,) = Microscope(net, large, ["relu1"], steps=1).seen(0, large).looks
    y = net.forwardto(net.init_res(), "relu1", as_seen(net, images.resize(large, (12, LARGEST))))
    assert np.allclose(look.after["relu1"], y.mean(axis=(0, 1, 2)), atol=1e-4)


def test_what_the_net_takes_it_for():
    net, picture = classy(), clouds_over_hills(50, 61)
    assert probabilities(net, picture).sum() == pytest.approx(1)
    seen = looked()
    assert {row[0] for row in opinions(seen, seen.classes).rows} == {
        "crane",
        "bee eater (bird)+",
        "matchstick",
    }
    assert [finding.title for finding in tables(looked(layers=["conv1", "conv2"]))] == [
        "What rose most in conv1",
        "What rose most in conv2",
        "What the net takes it for",
        "Pixels at the end of their range",
    ]
    assert probabilities(zoo.get("gabor"), picture) is None
    assert len(tables(looked(zoo.get("gabor"), [1]))) == 2


def test_what_a_channel_brought_adds_up_to_the_rise_of_the_score():
    """Behind conv2 all is linear, so there the sum is exact."""
    net, before = classy(), clouds_over_hills(33, 29)
    scores = [net.forwardto(net.init_res(), "fc", as_seen(net, x)) for x in (before, 255 - before)]
    for k in range(4):
        share = brought(net, before, 255 - before, "conv2", k)
        assert share.shape == (5,)
        assert share.sum() == pytest.approx(float((scores[1] - scores[0])[..., k].sum()), rel=1e-3)
    assert brought(net, before, before, "fc", 1) is None, "nothing lies between it and itself"
    assert brought(net, before, before, "prob", 1) is None


def test_a_look_leaves_the_device_only_as_means(device):
    seen = looked(classy().to(device)) if device == "cpu" else looked_there(device)
    here = looked()
    assert isinstance(seen.looks[-1].after["conv2"], np.ndarray)
    assert np.allclose(seen.looks[-1].after["conv2"], here.looks[-1].after["conv2"], rtol=1e-3, atol=1e-3)
    assert np.allclose(seen.brought["conv2"], here.brought["conv2"], rtol=1e-2, atol=1e-3)


def looked_there(device):
    start = clouds_over_hills(33, 29)
    scope = Microscope(classy().to(device), to_device(start, device), ["conv2"], steps=40)
    return scope.seen(40, to_device(255 - start, device))


def test_why_in_sentences():
    words = " ".join(why(looked()))
    assert re.search(r"The channels of conv2 that rose most, in deviations of all of them: \d \(\+", words)
    assert re.search(r"The net took the picture for .* at first, for .* in the end\.", words)
    assert re.search(r"What gained most is .*: from .*% to .*%, half of it by step \d+ of 40\.", words)
    assert re.search(r"The channels of conv2 that raised the score of .* most: \d \(\+", words)
    assert "has no opinion on whole pictures" in " ".join(why(looked(zoo.get("gabor"), [1])))


def test_an_opinion_that_stays_is_said_to_stay():
    seen = looked()
    opinion = np.array([0.1, 0.6, 0.2, 0.1])
    seen = seen._replace(looks=[look._replace(classes=opinion) for look in seen.looks])
    assert re.search(r"took the picture for (.*) \(.*%\) at first, and still for \1 \(", " ".join(why(seen)))


def test_what_is_drawn_has_a_point_for_each_look():
    seen = looked()
    found = panels(seen)
    assert [panel.ylabel for panel in found] == ["probability", "rise in conv2", "share burnt out"]
    for panel in found:
        assert {len(values) for values in panel.lines.values()} == {len(seen.looks)} == {len(panel.steps)}
    assert panels(looked(zoo.get("gabor"), [1]))[0].ylabel == "rise in conv1"


def test_a_grey_net_without_preprocessing_is_looked_into():
    net = zoo.get("lenet")
    assert net.preprocess is None
    start = clouds_over_hills(28, 28)
    seen = Microscope(net, start, ["relu3"], steps=1).seen(1, 255 - start)
    assert seen.classes.shape == (2, 10)


def test_how_much_is_burnt_out():
    picture = np.full((1, 33, 29, 3), 100.0)
    picture[0, :11], picture[0, 22:] = 0, 255
    assert burnt_out(looked(after=picture)).rows[1] == ("after", "33.3%", "33.3%")


# Plots and reports.


class Page(HTMLParser):
    """What a page refers to, says and shows."""

    def __init__(self, text):
        super().__init__()
        self.links, self.alts, self.tags, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.links += [found[name] for name in ("href", "src", "xlink:href") if name in found]
        self.alts += [found.get("alt")] if tag == "img" else []
        self.open += [tag] if tag not in ("meta", "img") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open = self.open[:-1]


@pytest.fixture(scope="module")
def dreamt(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("dream")
    job = replace(quick(layers=("conv2",)), net=saved(folder), photo=photo(folder, "<b>&.png"))
    opened = job.opened()
    return opened, watch(opened, keep_pictures=True, microscope=True)


def test_a_plot_is_an_svg_that_is_always_the_same(dreamt):
    from minidnn.recipes.plots import plot_run

    _, found = dreamt
    svg = plot_run(found.history, title="a $ and a <b>, " * 12)
    assert svg == plot_run(found.history, title="a $ and a <b>, " * 12)
    assert ET.fromstring(svg).tag.endswith("svg")
    assert b"matplotlib.org" not in svg


def test_a_plot_of_lines_takes_any_names(tmp_path):
    pytest.importorskip("matplotlib")
    from minidnn.recipes.plots import plot_lines, save_plot

    svg = plot_lines({"conv$1": [3, 2, 4], r"\frac$": [1, 2]}, xlabel="step", ylabel="|y|", log=True)
    save_plot(tmp_path / "lines.svg", svg)
    assert ET.parse(tmp_path / "lines.svg").getroot().tag.endswith("svg")
    with pytest.raises(UsageError, match=r"plots are written as \.svg"):
        save_plot(tmp_path / "lines.png", svg)


def test_a_report_is_one_page_that_needs_nothing_else(dreamt, tmp_path):
    from minidnn.recipes.report import report

    opened, found = dreamt
    report(tmp_path / "r.html", opened, found.picture, found.history, found.pictures, found.seen)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.links and all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not re.search(r"url\((?!#)", text)
    assert len(page.alts) == 3 and all(page.alts)
    for link in page.links:
        if link.startswith("data:"):
            with Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))) as picture:
                picture.load()
    assert text.count('role="img" aria-label="') == 2
    assert not page.open
    assert "b" not in page.tags and "&lt;b&gt;&amp;.png" in text
    for words in (
        "Why it became this",
        "What gained most is",
        "What rose most in conv2",
        "What the net takes it for",
        "matchstick",
        "<h2>Settings</h2>",
    ):
        assert words in text


def test_a_report_of_a_dream_on_every_device(tmp_path, device):
    pytest.importorskip("matplotlib")
    from minidnn.recipes.report import report

    opened = quick(steps=1).opened(device)
    found = watch(opened, keep_pictures=True, microscope=True)
    report(tmp_path / "r.html", opened, to_host(found.picture), found.history, found.pictures, found.seen)
    assert "What rose most in relu1" in (tmp_path / "r.html").read_text(encoding="utf-8")


# The flight.


def test_nearer_is_the_middle_enlarged():
    y, x = np.mgrid[:30, :40].astype("float64")
    ramp = np.stack([y, x, y + x], axis=2)[None]
    closer = nearer(ramp, 0.1)
    assert closer.shape == ramp.shape
    assert np.allclose(closer[0, :, :, 0], (y - 14.5) * 0.9 + 14.5)
    assert np.allclose(closer[0, :, :, 1], (x - 19.5) * 0.9 + 19.5)


def test_a_flight_begins_at_the_photo_and_goes_on_from_its_own_dreams():
    opened = quick(steps=1, octaves=1).opened()
    one, two = flight(opened, 2, share=0.1)
    (frame,) = opened.frames()
    assert np.array_equal(one, frame.picture)
    assert one.shape == two.shape and not np.array_equal(one, two)


@pytest.mark.parametrize(("frames", "share"), [(0, 0.1), (3, 0.0), (3, 1.0), (3, float("nan"))])
def test_flights_to_nowhere_are_told_before_the_first_dream(frames, share):
    with pytest.raises(UsageError, match=r"give (at least 1|a share above 0)"):
        flight(quick().opened(), frames, share=share)


# What it costs.

PEAK = """
import re, sys
from pathlib import Path
from minidnn.recipes.deepdream import DeepDream
from minidnn.recipes.forecast import forecast
from minidnn.recipes.job import Job

def peak():
    status = Path("/proc/self/status").read_text()  # unlike ru_maxrss it knows nothing of who started us
    return 1024 * int(re.search(r"VmHWM:\\s*([0-9]+)", status)[1])

def opened(h, w):
    return Job(size=(h, w), settings=DeepDream(steps=2, octaves=1)).opened()

def dream(h, w):
    for frame in opened(h, w).frames():
        pass

if sys.argv[1] == "forecast":
    print(forecast(opened(450, 520)).nbytes)
else:
    dream(40, 50)
    before = peak()
    dream(450, 520)
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no system that tells the peak")
def test_the_forecast_of_memory_is_near_the_truth():
    told, measured = (
        float(subprocess.run([sys.executable, "-c", PEAK, what], capture_output=True, check=True).stdout)
        for what in ("forecast", "measure")
    )
    assert 1 / 1.5 < told / measured < 1.5, f"told {told / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB"


def test_the_forecast_of_a_small_picture_is_measured_on_it():
    expected = costs.forecast(quick().opened())
    assert 0 < expected.seconds < 60 and 1e4 < expected.nbytes < 1e9
    assert re.fullmatch(r"about \d+ s, \d+\.\d\d GB at its largest", str(expected))
    assert [costs.in_words(seconds) for seconds in (3, 89, 100, 6000)] == ["3 s", "89 s", "2 min", "1.7 h"]


def test_the_forecast_lets_a_dream_that_will_diverge_do_so_later():
    assert costs.forecast(quick(rate=1e10).opened()).nbytes > 0


def test_too_big_a_picture_is_told_with_a_size_that_fits(monkeypatch):
    opened = replace(quick(octaves=1), size=(600, 700)).opened()
    expected = costs.Forecast(9.0, 8e9)
    costs.check_memory(opened, expected._replace(nbytes=1.0))
    monkeypatch.setattr(memory, "free_memory", lambda: 2_000_000_000)
    with pytest.raises(
        TooLargeError, match=r"of 700x600 needs about 8.0 GB, 2.0 GB are free: .* --size 270x315"
    ):
        costs.check_memory(opened, expected)
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    costs.check_memory(opened, expected)


def test_the_system_says_what_is_free():
    free = memory.free_memory()
    assert free is None or 1e6 < free < 1e15


def test_pictures_written_and_read_again_are_the_same(tmp_path):
    picture = np.rint(clouds_over_hills(20, 26))
    images.save(tmp_path / "p.png", picture, text={"minidnn": "ä–ö"})
    assert np.array_equal(images.load(tmp_path / "p.png"), picture)
    assert images.note_in(tmp_path / "p.png", "minidnn") == "ä–ö"
    assert images.note_in(Path(tmp_path / "p.png"), "other") is None
