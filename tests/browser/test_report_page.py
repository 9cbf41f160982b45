"""The report's page in a real browser: nothing is fetched, nothing overflows, all of it can be reached and read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report import write_report
from tests.report_run import write_run

pytestmark = pytest.mark.slow

FAULTS_OF_FORM = """() => {
    const faults = [];
    const name = element => element.getAttribute('aria-label')
        || (element.getAttribute('aria-labelledby') || '').split(' ').map(id => document.getElementById(id)?.innerText)
            .join('') || element.innerText;
    for (const element of document.querySelectorAll('svg, img, [role], a, summary, figure, section, nav'))
        if (!(name(element) || '').trim()) faults.push('no name: ' + element.outerHTML.slice(0, 80));
    let before = 0;
    for (const heading of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
        const level = Number(heading.tagName[1]);
        if (level > before + 1) faults.push('heading skips a level: ' + heading.innerText);
        before = level;
    }
    for (const table of document.querySelectorAll('table'))
        if (!table.caption || !table.querySelector('th[scope]')) faults.push('table: ' + table.outerHTML.slice(0, 80));
    return faults;
}"""
# Of every text against the nearest background behind it, as WCAG 2.2 counts contrast.
LOW_CONTRASTS = """() => {
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const background = element => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const faults = new Set();
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || element.closest('style, .unseen')) continue;
        const style = getComputedStyle(element);
        const colours = [parse(element.closest('svg') ? style.fill : style.color), background(element)].map(light);
        const ratio = (Math.max(...colours) + 0.05) / (Math.min(...colours) + 0.05);
        if (ratio < 4.5) faults.add(ratio.toFixed(2) + ' ' + element.textContent.trim().slice(0, 40));
    }
    return [...faults];
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a page about two runs, with all that a report can tell of."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / "internalized", (0, 1, 0, 1, 2, 3), frontier=True, audit=True),
        write_run(folder / "a_baseline_with_a_name_that_is_very_long_and_has_no_blank_at_all", (3,), kind="no_cot"),
    ]
    write_report(runs, folder / "report.html", folder / "figures")
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Yield the page as it opens, having fetched nothing and complained of nothing."""
    tab = browser.new_page()
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: faults.append(request.url) if request.url != address else None)
    tab.goto(address)
    yield tab
    tab.close()
    assert [fault for fault in faults if not fault.startswith("data:")] == []


@pytest.mark.parametrize("width", [320, 375, 768, 1440])
def test_no_width_makes_the_page_scroll_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_part_has_a_name_and_headings_are_in_order(page: Any) -> None:
    assert page.evaluate(FAULTS_OF_FORM) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_background(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(245, 246, 248)",
            "dark": "rgb(18, 21, 26)",
        }[scheme]
    )
    assert page.evaluate(LOW_CONTRASTS) == []


def test_the_skip_link_comes_first_and_the_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0  # it shows itself
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    reachable = page.evaluate("document.querySelectorAll('main a, main summary, main [tabindex=\"0\"]').length")
    for _ in range(reachable):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main')") is None  # behind the last one it goes on


def test_print_leaves_out_what_is_for_the_screen(page: Any) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") == "#1c2127"


def test_figures_are_drawn(page: Any) -> None:
    boxes = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().height)")
    assert len(boxes) >= 6 and min(boxes) > 100
    assert Path(page.url.removeprefix("file://")).with_name("figures").is_dir()
