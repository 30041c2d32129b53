import math
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_audit.report.charts import HEIGHT, WIDTH, Band, Line, chart, nice
from leakage_audit.report.curves import thin

finite = st.floats(-1e6, 1e6)


@given(finite, finite)
def test_ticks_are_few_and_round_and_enclose_the_range(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice(low, high)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 2.5, 5)


@given(st.lists(st.tuples(st.integers(0, 5000), finite), min_size=1, max_size=3000))
def test_thinning_keeps_every_peak_and_both_ends(points):
    thinned = thin(points, 100)
    last = dict(points)
    assert len(thinned) <= 104
    assert set(thinned) <= set(last.items())
    assert (thinned[0][0], thinned[-1][0]) == (min(last), max(last))
    assert {min(v for _, v in thinned), max(v for _, v in thinned)} == {min(last.values()), max(last.values())}


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 1.0), (9, 1.0)], [(k, math.sin(k)) for k in range(3000)]])
def test_what_is_drawn_lies_within_the_picture(points):
    figure = ET.fromstring(chart("PSNR", [Line("a", points, "s1")], (points[0][0], points[-1][0])))
    assert figure.find("figcaption/b").text == "PSNR"
    line = figure.find("svg/polyline").get("points")
    for x, y in (map(float, pair.split(",")) for pair in line.split()):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_higher_values_are_drawn_higher_and_later_ones_to_the_right():
    figure = ET.fromstring(chart("PSNR", [Line("a", [(0, 1.0), (10, 2.0)], "s1")], (0, 10)))
    (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in figure.find("svg/polyline").get("points").split())
    assert x2 > x1
    assert y2 < y1


def test_what_lies_beyond_the_limits_is_drawn_at_the_edge_with_its_number():
    figure = ET.fromstring(chart("PSNR", [Line("a", [(0, 149.4), (10, 20.0)], "s1")], (0, 10), (-20.0, 80.0)))
    assert "↑ a 149.4" in [text.text for text in figure.iter("text")]
    assert "149.4" in figure.find("svg/path/title").text


def test_numbers_beyond_the_limits_do_not_lie_on_each_other():
    lines = [Line(name, [(0, value)], "s1") for name, value in (("a", 149.4), ("b", 219.0), ("c", 149.1), ("d", -40.0))]
    figure = ET.fromstring(chart("PSNR", lines, (0, 10), (-20.0, 80.0)))
    beyond = {t.text: float(t.get("y")) for t in figure.iter("text") if t.get("class").startswith("beyond")}
    assert list(beyond) == ["↑ a 149.4", "↑ b 219", "↑ c 149.1", "↓ d −40"]
    heights = list(beyond.values())
    assert all(low - high >= 12 for high, low in pairwise(heights))


def test_bands_are_named_where_there_is_room():
    bands = [Band("silhouette", 15.0), Band("recognisable", 22.0), Band("exact", 54.2)]
    figure = ET.fromstring(chart("PSNR", [Line("a", [(0, 10.0), (10, 30.0)], "s1")], (0, 10), bands=bands))
    assert [text.text for text in figure.iter("text") if text.get("class") == "band-name"] == [
        "silhouette",
        "recognisable",
    ]


@pytest.mark.parametrize("value", [15.5, 17.0, 19.0, 21.0])
def test_a_band_s_name_is_not_written_on_a_curve(value):
    lines = [Line("a", [(0, value), (10, value)], "s1"), Line("b", [(0, 5.0), (10, 5.0)], "s2")]
    figure = ET.fromstring(chart("PSNR", lines, (0, 10), bands=[Band("silhouette", 15.0), Band("recognisable", 22.0)]))
    (height,) = {float(p.split(",")[1]) for p in next(figure.iter("polyline")).get("points").split()}
    (name,) = [text for text in figure.iter("text") if text.text == "silhouette"]
    baseline = float(name.get("y"))
    assert not baseline - 17 <= height <= baseline + 5
    band = next(rect for rect in figure.iter("rect") if rect.get("class") == "band silhouette")
    assert 0 < baseline - float(band.get("y")) < float(band.get("height"))


def test_names_from_outside_are_escaped():
    assert "<script>" not in chart("<script>", [Line("<script>", [(0, 1.0)], "s1")], (0, 1))


def test_curves_differ_without_colour():
    lines = [Line(name, [(0, 1.0), (10, 2.0)], name) for name in ("s1", "s2", "s3", "s4", "s5", "s6")]
    figure = ET.fromstring(chart("PSNR", lines, (0, 10)))
    marks = {dot.get("class"): dot.get("d").partition("m")[2] for dot in figure.iter("path")}
    assert len(set(marks.values())) == len(marks) == 6
    assert len({sign.text for sign in figure.iter("i")}) == 6
