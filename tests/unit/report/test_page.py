# SPDX-License-Identifier: Apache-2.0
"""The page as text; test_browser.py opens it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from agentcg.replay.run_folder import read_run
from agentcg.report.build import build
from agentcg.report.page import render

LIBRARY = "/* plotly.js */"


class Elements(HTMLParser):
    """Collects the elements of a page and what stands in its scripts."""

    def __init__(self):
        super().__init__()
        self.found, self.scripts, self.open = [], [], None

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")
        self.open = tag

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open == "script":
            self.scripts[-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def page(make_run, tmp_path):
    return render(build([read_run(make_run(tmp_path / "a", rounds=2))]), LIBRARY)


@pytest.fixture
def elements(page):
    found = Elements()
    found.feed(page)
    return found


def test_what_a_recording_says_is_no_markup(page, elements, hostile):
    assert len(elements.named("script")) == 3
    assert elements.named("img") == []
    assert elements.named("b") == []
    assert hostile[:9] not in page.replace(LIBRARY, "")[: page.index("<script type")]
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on")]
    plots = json.loads(elements.scripts[0])
    assert set(plots["templates"]) == {"light", "dark"}
    assert "<" not in elements.scripts[0]


def test_nothing_is_loaded_and_no_other_script_runs(page, elements):
    for _, attributes in elements.found:
        assert not {"src", "href", "srcset"} & attributes.keys()
    (policy,) = [each["content"] for each in elements.named("meta") if "http-equiv" in each]
    assert "default-src 'none'" in policy
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in elements.scripts[1:]]
    assert re.search("script-src ([^;]*);", policy)[1].split() == [f"'sha256-{digest}'" for digest in digests]


def test_the_first_thing_is_the_sentence_and_its_table(page):
    assert page.index('class="sentence"') < page.index("<table") < page.index("<figure")


def test_each_plot_has_an_alternative_and_two_buttons(elements):
    plots = [each for each in elements.named("div") if each.get("class") == "plot"]
    assert len(plots) == 5
    assert all(each["role"] == "img" and each["aria-label"] for each in plots)
    assert len(elements.named("button")) == 2 * len(plots)
    assert len(elements.named("details")) == len(plots)
    assert {each["data-plot"] for each in plots} == set(json.loads(elements.scripts[0])["plots"])


def test_intervals_are_not_broken_into_lines(page):
    whole = '<span class="whole">{}</span>'
    assert re.search(whole.format(r"\d\.\d\d \[\d\.\d\d, \d\.\d\d\]") + ", " + whole.format("n = 2") + "</td>", page)


def test_the_best_arm_is_shown_first(elements):
    options = elements.named("option")
    assert ["selected" in each for each in options] == [False, True]
    assert ["hidden" in each for each in elements.named("figure")][:3] == [True, False, False]


def test_cells_name_their_columns_for_narrow_screens(elements):
    assert "Finished" in {each.get("data-label") for each in elements.named("td")}
    assert {each["role"] for each in elements.named("table")} == {"table"}
