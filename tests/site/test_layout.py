"""Every page of the documentation, in a headless browser: nothing that it shows is cut, covered or broken in mid-word.

``nox -s pages`` builds site/ and runs this; chromium has to be installed.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from tests.processes import ROOT  # noqa: E402

SITE = ROOT / "site"
PAGES = sorted(str(page.parent.relative_to(SITE)) for page in SITE.rglob("index.html"))
WINDOWS = {"desk": (1280, 900), "phone": (390, 844)}

# Boxes whose content is wider than they are. One that scrolls shows a scrollbar, which takes room; of the others, no
# child may reach over the edge of the window.
CUT = """() => {
    const shown = element => element.getClientRects().length > 0;
    const cut = [];
    for (const box of document.querySelectorAll(
        ".md-content :is(pre > code, .md-typeset__scrollwrap, div.arithmatex, p:has(img))"
    )) {
        const wider = box.scrollWidth - box.clientWidth;
        const style = getComputedStyle(box);
        if (!shown(box) || wider <= Math.max(1, parseFloat(style.paddingRight))) continue;
        const borders = parseFloat(style.borderTopWidth) + parseFloat(style.borderBottomWidth);
        const bar = box.offsetHeight - box.clientHeight - borders;
        cut.push({text: box.textContent.trim().slice(0, 60), wider, bar, table: !box.matches("code")});
    }
    return cut;
}"""
# A name that stands on two lines must have been broken at a <wbr>, or at a blank or hyphen: never between two letters.
BROKEN = """() => {
    const broken = [];
    for (const table of document.querySelectorAll(".md-content table")) {
        const texts = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
        for (let node = texts.nextNode(); node; node = texts.nextNode()) {
            for (const word of node.data.matchAll(/[\\w]+/g)) {
                const range = document.createRange();
                range.setStart(node, word.index);
                range.setEnd(node, word.index + word[0].length);
                const lines = new Set([...range.getClientRects()].map(line => Math.round(line.top)));
                if (lines.size > 1) broken.push(word[0]);
            }
        }
    }
    return broken;
}"""
COVERED = """() => {
    const covered = [];
    for (const button of document.querySelectorAll(".md-content .md-code__button")) {
        const over = button.getBoundingClientRect();
        const code = button.closest("pre, .highlight").querySelector("code");
        const range = document.createRange();
        range.selectNodeContents(code);
        for (const line of range.getClientRects())
            if (line.width && line.bottom > over.top + 1 && line.top < over.bottom - 1 && line.right > over.left)
                covered.push(code.textContent.slice(0, 60));
    }
    return [...new Set(covered)];
}"""
# Text of a chart that is drawn so small that nobody reads it: an SVG says its own width in points.
TINY = """() => [...document.querySelectorAll(".md-content img[src$='.svg']")]
    .filter(image => image.getBoundingClientRect().width < 0.7 * image.naturalWidth)
    .map(image => image.getAttribute("src"))"""
SQUEEZED = """() => [...document.querySelectorAll(".md-content td")]
    .filter(cell => cell.textContent.trim().length > 60 && cell.getBoundingClientRect().width < 90)
    .map(cell => cell.textContent.trim().slice(0, 60))"""
OUTSIDE = """() => {
    const elsewhere = performance.getEntriesByType("resource").map(entry => entry.name);
    return elsewhere.filter(address => !address.startsWith(location.origin) && !address.startsWith("data:"));
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module", params=[f"{name}, {colours}" for name in WINDOWS for colours in ("light", "dark")])
def window(request: pytest.FixtureRequest) -> Iterator[Any]:
    name, _, colours = request.param.partition(", ")
    width, height = WINDOWS[name]
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox"],
            ignore_default_args=["--hide-scrollbars"],  # a person's browser shows them
        )
        yield browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
        browser.close()


def test_the_site_has_been_built() -> None:
    written = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    assert {"." if page == "index" else page for page in written} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_cut_covered_or_broken(page: str, window: Any, address: str) -> None:
    window.goto(address if page == "." else f"{address}{page}/", timeout=120_000)
    width = window.viewport_size["width"]
    assert window.evaluate("document.documentElement.scrollWidth") <= width, "the page itself scrolls sideways"
    cut = window.evaluate(CUT)
    assert [box for box in cut if box["bar"] < 4] == [], "wider than its box, and no scrollbar shows it"
    if width == WINDOWS["desk"][0]:
        assert cut == [], "wider than the column of a desk's window"
    assert window.evaluate(BROKEN) == []
    assert window.evaluate(COVERED) == []
    assert window.evaluate(TINY) == [], "a chart whose words are too small to be read"
    assert window.evaluate(SQUEEZED) == [], "a sentence in a column of a word or two"
    assert window.evaluate(OUTSIDE) == [], "asked of another host"
    formulas = window.evaluate("document.querySelectorAll('.arithmatex').length")
    assert window.evaluate("document.querySelectorAll('.arithmatex .katex').length") >= formulas
    assert window.evaluate("document.querySelectorAll('.katex-error').length") == 0
