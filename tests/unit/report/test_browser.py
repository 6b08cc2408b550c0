# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium, and figures as files. Takes ``apt install chromium`` and ``pip install -e '.[report]'``:

python -m pytest tests/unit/report/test_browser.py -m long
"""

import asyncio
import functools
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

WIDTHS = (1280, 390)
SETTLE_SEC = 60
NOTHING_WIDER = "document.documentElement.scrollWidth <= innerWidth"
DRAWN = """[...document.querySelectorAll("[data-plot]")].filter((each) => each.offsetParent).every(
    (each) => { each.scrollIntoView(); return each.querySelector(".main-svg") })"""


def command(*arguments, **environment):
    program = [sys.executable, "-c", "from agentcg.cli import main; main()", "report"]
    return subprocess.run(
        program + [str(each) for each in arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"DISPLAY": "", "WAYLAND_DISPLAY": ""} | environment,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_run):
    """A run of five arms with 300 calls each whose commands do harm, and its page."""
    top = tmp_path_factory.mktemp("report")
    make_run(top / "run", rounds=3, calls=100, arms=["none", "static", "high-only", "psi-loop", "agentcg"])
    done = command(top / "run", "-o", top / "report.html")
    assert done.returncode == 0, done.stderr
    return top


async def look(page, width, scheme, *scripts, downloads=None):
    """Open a page and return what each script comes to, and what the page told, asked for and said."""
    import choreographer

    told, asked, answers = [], [], []
    async with choreographer.Browser(headless=True) as browser:
        tab = await browser.create_tab("about:blank")

        async def send(method, **parameters):
            answer = await tab.send_command(method, params=parameters)
            assert "error" not in answer, answer
            return answer["result"]

        async def evaluate(script):
            found = await send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
            assert "exceptionDetails" not in found, found
            return found["result"].get("value")

        async def note(into, message):
            into.append(message["params"])

        for event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            tab.subscribe(event, functools.partial(note, told))
        tab.subscribe("Network.requestWillBeSent", functools.partial(note, asked))
        for domain in ("Runtime", "Log", "Network", "Page"):
            await send(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        await send("Emulation.setDeviceMetricsOverride", **size)
        await send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        if downloads is not None:
            await send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        await send("Page.navigate", url=page.as_uri())
        await until(evaluate, "document.readyState === 'complete'")
        await until(evaluate, DRAWN)
        answers = [await evaluate(script) for script in scripts]
        if downloads is not None:
            await saved(downloads)
    return SimpleNamespace(told=told, asked=[each["request"]["url"] for each in asked], answers=answers)


async def until(evaluate, script):
    for _ in range(SETTLE_SEC * 5):
        if await evaluate(script):
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"not within {SETTLE_SEC} s: {script}")


async def saved(folder):
    for _ in range(SETTLE_SEC * 5):
        if {path.suffix for path in folder.iterdir()} == {".svg", ".png"}:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"not within {SETTLE_SEC} s: {list(folder.iterdir())}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_opens_without_an_error_or_a_request(folder, width, scheme):
    page = folder / "report.html"
    paper = "getComputedStyle(document.body).backgroundColor"
    plot = """document.querySelector("[data-plot] .main-svg").style.background"""
    seen = asyncio.run(look(page, width, scheme, NOTHING_WIDER, "document.title", paper, plot))
    assert seen.told == []
    assert [url for url in seen.asked if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    wide, title, body, drawn = seen.answers
    assert wide
    assert title == "run: agentcg report"  # a hostile command writes another
    assert body == drawn == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 30)"}[scheme]


def test_tables_of_a_thousand_calls_are_not_wider_than_a_phone(folder):
    unfold = "document.querySelectorAll('details').forEach((each) => { each.open = true })"
    narrow = (
        """[...document.querySelectorAll("table")].every((each) => each.getBoundingClientRect().right <= innerWidth)"""
    )
    seen = asyncio.run(look(folder / "report.html", 390, "light", unfold, NOTHING_WIDER, narrow))
    assert seen.answers[1:] == [True, True]


def test_another_arm_can_be_chosen(folder):
    choose = """(() => {
        const select = document.querySelector("select");
        select.value = "lanes-1-1";
        select.dispatchEvent(new Event("change"));
        document.getElementById("lanes-1-1").scrollIntoView();
        const shown = [...document.querySelectorAll("figure[id^=lanes]")].filter((each) => !each.hidden);
        return shown.map((each) => each.id);
    })()"""
    drawn = "new Promise((done) => setTimeout(done, 5000)).then(() => !!document.querySelector('#lanes-1-1 .main-svg'))"
    chosen = "document.querySelector('select').value"
    seen = asyncio.run(look(folder / "report.html", 1280, "light", chosen, choose, drawn))
    assert seen.answers == ["lanes-1-5", ["lanes-1-1"], True]
    assert seen.told == []


def test_no_legend_lies_on_its_plot(folder):
    drawn = """[...document.querySelectorAll("[data-plot]")].filter((each) => each.querySelector(".legend"))"""
    clear = """.map((each) => {
        const titles = [...each.querySelectorAll(".xtitle, .xtick text")].map((text) => text.getBoundingClientRect());
        const legend = each.querySelector(".legend").getBoundingClientRect();
        return Math.max(...titles.map((box) => box.bottom)) <= legend.top + 1;
    })"""
    wait = "new Promise((done) => setTimeout(done, 2000))"
    for width in WIDTHS:
        seen = asyncio.run(look(folder / "report.html", width, "light", wait, drawn + clear))
        assert seen.answers[1] == [True] * 4, width


def test_a_plot_is_saved_by_its_buttons(folder, tmp_path):
    click = "document.querySelectorAll('[data-of=completion-1]').forEach((each) => each.click())"
    seen = asyncio.run(look(folder / "report.html", 1280, "dark", click, downloads=tmp_path))
    assert seen.told == []
    svg = (tmp_path / "completion-1.svg").read_text()
    assert svg.startswith("<svg")
    assert "rgb(255, 255, 255)" in svg  # for paper, whatever the screen is
    assert (tmp_path / "completion-1.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_written_as_files(folder, tmp_path):
    done = command(folder / "run", "-o", tmp_path / "x.html", "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"completion-1.svg", "completion-1.png", "lanes-1-5.svg", "durations-1.png"} <= names
    assert len(names) == 16
    drawn = (tmp_path / "figures" / "lanes-1-5.svg").read_text()
    assert drawn.startswith("<svg")
    assert not re.search(r"<(script|img)\b", drawn)


def test_without_chromium_it_is_said_how_to_get_it(folder, tmp_path):
    done = command(
        *(folder / "run", "-o", tmp_path / "x.html", "--figures", tmp_path / "figures"),
        PATH=str(tmp_path),
        BROWSER_PATH=str(tmp_path / "none"),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("agentcg: --figures needs Chromium\n  hint: apt install chromium")
    assert (tmp_path / "x.html").exists()


def test_plotly_knows_each_part_of_the_figures(folder):
    from plotly import graph_objects

    from agentcg.replay.run_folder import read_run
    from agentcg.report.build import build

    for figure in build([read_run(folder / "run")]).figures:
        graph_objects.Figure(figure.plot)  # raises for a property that there is not
