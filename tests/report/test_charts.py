"""Charts: round ticks, few points, bars that add up, and names that stay text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from myna.report.charts import MAX_POINTS, MAX_TICKS, Line, histogram, line_chart, round_steps, thinned


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.37), (3, 888), (-2, 7), (0.965, 3.72), (0, 1e6)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = round_steps(low, high)
    assert 2 <= len(ticks) <= MAX_TICKS + 1
    assert low - 1e-9 <= ticks[0]
    assert ticks[-1] <= high + 1e-9
    assert {f"{tick:.1e}"[0] for tick in (ticks[1] - ticks[0],)} <= {"1", "2", "5"}


def test_ticks_of_a_known_axis():
    assert round_steps(0, 10) == [0, 2, 4, 6, 8, 10]


def test_long_lines_are_averaged():
    points = [(float(x), 1.0 if x % 2 else 3.0) for x in range(10 * MAX_POINTS)]
    short = thinned(points)
    assert len(short) == MAX_POINTS
    assert short[0] == (4.5, 2.0)
    assert thinned(points[:5]) == points[:5]


def test_a_curve_goes_where_its_values_are():
    chart = line_chart("Loss", [Line("training", [(0.0, 0.0), (10.0, 4.0)])], "step", "nats")
    (points,) = re.findall(r'points="([^"]*)"', chart.svg)
    (x, y), (last_x, last_y) = (map(float, point.split(",")) for point in points.split())
    assert x < last_x
    assert y > last_y  # SVG counts downwards
    assert 'aria-label="Loss. training: 0 at step 0, 4 at 10, lowest 0"' in chart.svg
    ElementTree.fromstring(chart.svg)


def test_values_over_orders_of_magnitude_are_drawn_by_their_logarithm():
    chart = line_chart("Loss", [Line("training", [(0.0, 100.0), (1.0, 10.0), (2.0, 1.0)])], "step", "")
    (points,) = re.findall(r'points="([^"]*)"', chart.svg)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert "logarithmic" in chart.svg


def test_one_point_and_equal_values_can_be_drawn():
    assert "circle" in line_chart("WER", [Line("WER", [(5.0, 0.0)])], "step", "%").svg
    assert "circle" in line_chart("WER", [Line("WER", [(5.0, 3.0), (6.0, 3.0)])], "step", "%").svg
    assert "rect" in histogram("Lengths", {"all": [2.0, 2.0]}, "seconds").svg


def test_nothing_is_no_chart():
    assert line_chart("Loss", [Line("training", [])], "step", "") is None
    assert histogram("Lengths", {"training": []}, "seconds") is None


def test_bars_are_shares_of_their_group():
    chart = histogram("Lengths", {"training": [1.0] * 3 + [2.0], "scored": [1.0]}, "seconds")
    heights = [float(height) for height in re.findall(r'<rect class="fill0"[^>]*height="([^"]*)"', chart.svg)]
    (scored,) = [float(h) for h in re.findall(r'<rect class="fill1"[^>]*height="([^"]*)"', chart.svg) if float(h)]
    assert len(heights) == 20
    assert heights[0] == pytest.approx(3 * heights[-1], abs=0.2)
    assert heights[0] + heights[-1] == pytest.approx(scored, abs=0.2)
    assert chart.names == ("training", "scored")


def test_names_stay_text():
    chart = line_chart('a"b', [Line("<script>", [(0.0, 1.0)])], "<step>", "&")
    assert "<script>" not in chart.svg
    assert ElementTree.fromstring(chart.svg).attrib["aria-label"].startswith('a"b. <script>: 1')
