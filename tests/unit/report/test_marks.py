# SPDX-License-Identifier: Apache-2.0
"""Colours that are seen, text that is no markup, lines that keep their peaks."""

import pytest

from agentcg.report.marks import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    LIGHT,
    PURPLE,
    VERMILLION,
    arm_line,
    figure_text,
    json_points,
    short,
    thin,
)


def luminance(color):
    # https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("template", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_are_seen_on_both_backgrounds(template):
    layout = template["layout"]
    for color in (BLUE, VERMILLION, GREEN, PURPLE, GREY):
        assert contrast(color, layout["paper_bgcolor"]) >= 3, color
    assert contrast(layout["font"]["color"], layout["paper_bgcolor"]) >= 7


def test_five_arms_have_five_colours_and_five_dashes():
    lines = [arm_line(index) for index in range(5)]
    assert len({line["color"] for line in lines}) == len({line["dash"] for line in lines}) == 5


def test_text_is_no_markup():
    assert figure_text("<b>&\u202e\n\x1b[1m") == "&lt;b&gt;&amp; [1m"
    assert short("x" * 99, 10) == "x" * 9 + "…"


def test_a_thin_line_keeps_its_peaks_and_ends():
    points = [(float(at), 1.0) for at in range(10_000)]
    points[5_003], points[7_001] = (5003.0, 99.0), (7001.0, -5.0)
    points[100] = (100.0, None)
    kept = thin(points)
    assert len(kept) <= 810
    assert {(5003.0, 99.0), (7001.0, -5.0), points[0], points[-1]} <= set(kept)
    assert kept == sorted(kept, key=lambda point: point[0])
    assert thin(points[:50]) == points[:50]


def test_what_holds_goes_on_to_the_end():
    assert json_points([(1.0, 4.0), (2.0, None)], 2.0, 5.0) == {"x": [1.0, 2.0, 5.0], "y": [2.0, None, None]}
    assert json_points([], 1.0, 5.0) == {"x": [], "y": []}
