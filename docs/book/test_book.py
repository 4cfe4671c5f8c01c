"""The built book in headless Chromium, and its links; run by `make test-book`."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

HTML = Path(__file__).resolve().parents[2] / "build" / "book" / "html"
PAGES = sorted(page.relative_to(HTML).as_posix() for page in HTML.rglob("*.html"))
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


class Page(HTMLParser):
    """What a page offers to links (`ids`), links to (`links`) and loads by itself (`loads`)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.loads, self.pictures = {"", "top"}, [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(found["href"])
        elif "src" in found:
            self.loads.append(found["src"])
        if tag == "img":
            self.pictures.append(found.get("alt") or "")


@pytest.fixture(scope="module")
def parsed() -> dict[str, Page]:
    return {page: Page((HTML / page).read_text()) for page in PAGES}


def test_every_kind_of_page_is_there():
    assert {"index.html", "search.html", "docs/GLOSSARY.html", "docs/TEACHING.html"} <= set(PAGES)
    for folder, least in {"notebooks": 6, "docs": 6, "api": 15}.items():
        assert sum(page.startswith(f"{folder}/") for page in PAGES) >= least


def test_no_internal_link_is_broken(parsed):
    broken = []
    for page, content in parsed.items():
        for link in content.links:
            target, anchor = urldefrag(urljoin(page, link))
            if urlsplit(link).scheme or page == "genindex.html" and not link:
                continue
            target = unquote(target)
            if not (HTML / target).is_file():
                broken.append((page, link))
            elif target in parsed and unquote(anchor) not in parsed[target].ids:
                broken.append((page, link))
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(parsed):
    loads = {load for content in parsed.values() for load in content.loads}
    assert not [load for load in loads if re.match(r"(https?:)?//", load)]


def test_every_picture_of_a_notebook_has_an_alt_text(parsed):
    missing = [
        page
        for page, content in parsed.items()
        if any(len(alt.split()) < 3 for alt in content.pictures)
    ]
    assert missing == []


@pytest.fixture(scope="module")
def address(serve):
    return serve(HTML)


@pytest.fixture(params=["light", "dark"], scope="module")
def tab(request, browser):
    """A page in light or dark mode, with the complaints and the requests that it makes."""
    tab = browser.new_page(color_scheme=request.param, viewport=DESK)
    tab.set_default_timeout(120_000)  # ms, for a busy machine
    tab.scheme, tab.complaints, tab.requests = request.param, [], []
    tab.on("console", lambda m: m.type == "error" and tab.complaints.append(m.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("request", lambda request: tab.requests.append(request.url))
    yield tab
    tab.close()


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tab, address):
    """No console error, no request to elsewhere, no serious finding, readable on a phone."""
    tab.complaints.clear()
    tab.requests.clear()
    tab.set_viewport_size(DESK)
    tab.goto(address + page, wait_until="load")
    found = Axe().run(tab).response["violations"]
    serious = [
        (rule["id"], rule["nodes"][0]["html"][:200], len(rule["nodes"]))
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    tab.set_viewport_size(PHONE)
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith((address, "data:"))] == []
    assert serious == []
    assert width <= PHONE["width"]


def test_dark_mode_is_dark(tab, address):
    tab.goto(address + "index.html")
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = max(int(part) for part in re.findall(r"\d+", colour)[:3])
    assert brightness < 64 if tab.scheme == "dark" else brightness > 192


def test_search_finds_a_term(tab, address):
    tab.goto(address + "search.html?q=consolidation")
    tab.wait_for_selector("#search-results li a")
    results = tab.locator("#search-results li a").all_inner_texts()
    assert any("Glossary" in text for text in results)
