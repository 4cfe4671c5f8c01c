"""The decks in headless Chromium; run by `make test-book`."""

from pathlib import Path

import pytest

SLIDES = Path(__file__).resolve().parents[2] / "build" / "slides"
DECKS = sorted(path.name for path in SLIDES.glob("*.html"))
PATIENCE = 120_000  # ms, for a busy machine


def test_every_notebook_has_a_deck():
    notebooks = (SLIDES.parents[1] / "notebooks").glob("0*.ipynb")
    assert DECKS == sorted(f"{path.stem}.html" for path in notebooks)


@pytest.mark.parametrize("deck", DECKS)
def test_deck_turns_its_pages_without_a_network(deck, browser, serve):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(PATIENCE)
    complaints, requests = [], []
    tab.on("console", lambda m: m.type == "error" and complaints.append(m.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    address = serve(SLIDES)
    tab.goto(address + deck)
    tab.wait_for_function("window.Reveal && Reveal.isReady()")
    total = tab.evaluate("Reveal.getTotalSlides()")
    seen = []
    for _ in range(total):
        seen.append(tab.evaluate("Reveal.getCurrentSlide().innerText").strip())
        tall = tab.evaluate("Reveal.getCurrentSlide().scrollHeight")
        assert tall <= 700, f"a slide runs over its page: {seen[-1][:80]}"
        tab.keyboard.press("ArrowRight")
    tab.close()
    assert total >= 7 and all(seen) and seen[-1].startswith("Check yourself")
    assert complaints == []
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.parametrize("deck", DECKS)
def test_pictures_have_alt_texts_and_notes_are_there(deck, browser, serve):
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.goto(serve(SLIDES) + deck)
    alts = tab.eval_on_selector_all("section img", "all => all.map(img => img.alt)")
    assert len(alts) >= 1 and all(len(alt.split()) >= 3 for alt in alts)
    assert tab.locator("aside.notes").count() >= 3
    tab.close()
