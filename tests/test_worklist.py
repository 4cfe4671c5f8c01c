"""The page as text, and as a reader meets it in headless Chromium, where that is installed."""

import base64
import hashlib
import io
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidxr import CLASSES, InputError, history, pictures, progression, runs, triage, worklist
from covidxr.models import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:no temperature")  # too few films to calibrate

SCRIPT = "<script>document.title = 'run'</script>"
IMG = '<img src=x onerror="document.title=1">.png'
META = {"classes": CLASSES, "image_size": 64, "temperature": 1.5, "threshold": 0.3}
PHANTOM = {"dataset": "phantom"}


def predictions(n, severity=True, seed=0):
    """`n` films of n / 2 made-up patients on days 0 and 5, and two files that were not read."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.4, 0.4, 0.4], n)
    table = pd.DataFrame({"image_path": [f"films/{i:03d}.png" for i in range(n)]})
    table["patient_id"], table["label"] = pd.NA, pd.NA
    for column, name in enumerate(CLASSES):
        table[f"p_{name}"] = p[:, column]
    table["predicted"] = np.asarray(CLASSES)[p.argmax(axis=1)]
    if severity:
        for side in ("right", "left"):
            table[f"extent_{side}"] = (1 - p[:, 0]) * rng.uniform(1, 4, n)
        table["extent"] = table["extent_right"] + table["extent_left"]
        table = table.assign(extent_sd=0.4, opacity=table["extent"] * 0.75, opacity_sd=0.4)
    table = table.assign(status="ok", reason=pd.NA)
    broken = {"image_path": ["films/a.png", SCRIPT], "status": "rejected"}
    reason = {"reason": ["empty file", "<b>not</b> an image"]}
    return pd.concat([table, pd.DataFrame(broken | reason)], ignore_index=True)


def patients(table):
    """The films two by two, the last patient's name and file full of markup."""
    known = table["image_path"][table["status"] == "ok"].to_frame().reset_index(drop=True)
    known["patient_id"] = [f"P{i // 2}" for i in known.index]
    known["study_day"] = [5.0 * (i % 2) for i in known.index]
    known["view"] = "PA"
    known.loc[known.index[-2:], "patient_id"] = SCRIPT
    return known.astype({"patient_id": "string", "view": "string", "study_day": "Float64"})


def page(n=12, severity=True, known=True, meta=META, rename=True):
    """HTML and worklist of made-up films."""
    table = predictions(n, severity)
    if rename:
        table.loc[n - 1, "image_path"] = f"films/{IMG}"
    table = triage.order(history.join(table, patients(table) if known else None))
    table = progression.add_courses(table)
    rng = np.random.default_rng(1)
    film = pictures._uri(Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)))
    drawn = {"film": film} | pictures._heat(np.eye(32)[::-1], 0.8)
    films = dict.fromkeys(table["image_path"], drawn)
    films["films/001.png"] = drawn | {"heat": None, "peak": None}
    sem = {"value": None, "patients": 0}
    about = {"run": "a <i>run</i>", "meta": meta, "sem": sem, "patients": known}
    return worklist.render(table, films, about), table


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))


# --- as text ----------------------------------------------------------------------------------


def test_page_allows_its_own_style_and_script_and_nothing_else():
    html, _ = page()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    assert not re.search(r'(src|href)="(?!data:|#)', html) and " style=" not in html
    assert "https:" not in html and "http:" not in html and "@import" not in html


def test_names_with_markup_stand_as_text():
    html, _ = page()
    assert SCRIPT not in html and "<img src=x" not in html and "<i>run" not in html
    assert "&lt;script&gt;" in html and "&lt;img src=x onerror" in html


def test_same_films_same_bytes():
    assert page()[0] == page()[0]


def test_page_says_what_it_knows_and_what_not():
    full, table = page()
    assert "Not a medical device" in full and "Urgency is P(disease) × extent / 8" in full
    assert "p = 0.30, which found 95%" in full and "temperature 1.50" in full
    assert f"<b>{table['to_person'].notna().sum()}</b> in doubt" in full
    assert "synthetic phantom" not in full
    bare = page(severity=False, known=False, meta=META | {"threshold": None} | PHANTOM)[0]
    assert "estimates no severity, so urgency is P(disease) alone" in bare
    assert "No table of patients was given" in bare and "synthetic phantom" in bare
    assert "which found 95%" not in bare and 'data-key="extent"' not in bare
    half = page(severity=False)[0]
    assert "course shows P(disease), and no change is called" in half


def test_page_with_nothing_read():
    html, table = page(n=0, known=False, rename=False)
    assert len(table) == 2 and "<b>0</b> films" in html and "empty file" in html


def test_line_and_zone_of_the_sparkline():
    films = pd.DataFrame(
        {
            "image_path": ["a", "b", "c"],
            "study_day": [0, 10, None],
            "extent": [2.0, 6.0, 1.0],
            "sem": 0.5,
        }
    )
    found = worklist._spark({"image_path": "b"}, films)
    left, right = found["points"]
    assert (left["x"], right["x"]) == (worklist.LEFT, worklist.RIGHT)
    unit = (worklist.BOTTOM - worklist.TOP) / 8
    assert left["y"] == worklist.BOTTOM - 2 * unit and right["y"] == worklist.BOTTOM - 6 * unit
    assert found["line"] == (left["y"], right["y"])
    assert (left["own"], right["own"]) == (False, True)
    top, bottom = found["zone"]
    width = 2 * progression.smallest_change(0.5) * unit
    assert bottom == pytest.approx(min(top + width, worklist.BOTTOM), abs=0.2)
    assert worklist._spark({"image_path": "b"}, films.iloc[1:]) is None
    assert worklist._spark({"image_path": "b"}, None) is None


# --- pictures ---------------------------------------------------------------------------------


def test_pictures_show_the_film_and_where_its_map_is_highest(tiny_run, phantom_dir):
    model, meta = load_checkpoint(tiny_run / "model.safetensors")
    files = sorted((phantom_dir / "COVID" / "images").glob("*.png"))[:3]
    table = triage.order(runs.predict_files(tiny_run, files))
    found = pictures.pictures(model, meta["image_size"], table, batch=2)
    assert list(found) == table["image_path"].to_list()
    with Image.open(files[0]) as image:
        film = np.asarray(image.resize((pictures.FILM, pictures.FILM)).convert("L"), float)
    shown = np.asarray(decoded(found[str(files[0])]["film"]).convert("L"), float)
    assert np.abs(shown - film).mean() < 5
    heat = found[str(files[0])]
    opacity = np.asarray(decoded(heat["heat"]).getchannel("A"))
    assert opacity.shape == (pictures.HEAT, pictures.HEAT)
    y, x = np.unravel_index(opacity.argmax(), opacity.shape)
    assert heat["peak"] == pytest.approx((100 * x / pictures.HEAT, 100 * y / pictures.HEAT), abs=5)
    row = table.set_index("image_path").loc[str(files[0])]
    disease = max(row["p_Lung_Opacity"], row["p_COVID"])
    assert opacity.max() == pytest.approx(disease * pictures.OPACITY, abs=8)


def test_a_film_without_a_map_is_shown_without_one(tiny_run, phantom_dir):
    model, meta = load_checkpoint(tiny_run / "model.safetensors")
    for weights in model.layer2.parameters():
        weights.data.zero_()
    files = sorted((phantom_dir / "COVID" / "images").glob("*.png"))[:2]
    table = triage.order(runs.predict_files(tiny_run, files))
    for picture in pictures.pictures(model, meta["image_size"], table).values():
        assert picture["heat"] is None and decoded(picture["film"]).size == (224, 224)
    assert pictures._heat(np.full((4, 4), -1.0), 1)["heat"] is None


def test_a_file_that_vanishes_is_refused(tiny_run, phantom_dir):
    model, meta = load_checkpoint(tiny_run / "model.safetensors")
    table = triage.order(predictions(1).iloc[:1])
    with pytest.raises(InputError, match="read once, then not again"):
        pictures.pictures(model, meta["image_size"], table)


def test_500_films_of_noise_stay_below_25_megabytes():
    noise = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
    film = len(pictures._uri(Image.fromarray(noise)))
    heat = len(pictures._heat(np.random.default_rng(0).normal(size=(224, 224)), 1)["heat"])
    row = len(page(40)[0]) / 40
    assert 500 * (film + heat + row) < 25e6


# --- from a run -------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_make_writes_page_and_table(tiny_run, phantom_dir, tmp_path):
    truth = pd.read_csv(phantom_dir / "metadata.csv")
    several = truth["patient_id"].value_counts().index[0]
    rows = truth[truth["patient_id"] == several]
    (tmp_path / "empty.png").touch()
    files = [phantom_dir / path for path in rows["image_path"]] + [tmp_path / "empty.png"]
    out = tmp_path / "list.html"
    table = worklist.make(tiny_run, files, out, phantom_dir / "metadata.csv")
    assert out.read_text().count('class="film') == len(rows)
    found = pd.read_csv(tmp_path / "list.csv")
    assert found["image_path"].to_list() == table["image_path"].to_list()
    assert found["status"].to_list() == ["ok"] * len(rows) + ["rejected"]
    assert found["place"].to_list()[:-1] == list(range(1, len(rows) + 1))
    assert set(found["patient_id"].dropna()) == {several}
    assert "synthetic phantom" in out.read_text()
    assert not list(tmp_path.glob("*.part"))


def test_a_run_without_normal_is_refused_before_any_work(tiny_run, tmp_path, monkeypatch):
    model, meta = load_checkpoint(tiny_run / "model.safetensors")
    changed = model, meta | {"classes": ["A", "B", "C"]}
    monkeypatch.setattr(worklist, "load_checkpoint", lambda _: changed)
    monkeypatch.setattr(runs, "predict_files", lambda *_: pytest.fail("predicted"))
    with pytest.raises(InputError, match="found classes A, B, C, expected Normal"):
        worklist.make(tiny_run, [], tmp_path / "list.html")


def test_error_of_measurement_comes_from_diseased_validation_patients(tmp_path):
    patients, rng = [f"P{i}" for i in range(30) for _ in range(2)], np.random.default_rng(0)
    sick = np.repeat(np.arange(30) < 20, 2)
    error = np.where(sick, rng.normal(0, 0.7, 60), 0)
    paths = [f"{i}.png" for i in range(60)]
    truth = pd.DataFrame({"image_path": paths, "extent": np.where(sick, 4.0, 0)})
    val = pd.DataFrame({"image_path": paths, "patient_id": patients, "extent": 4 * sick + error})
    assert worklist.validation_sem(tmp_path) == {"value": None, "patients": 0}
    truth.to_csv(tmp_path / "manifest.csv", index=False)
    val.to_csv(tmp_path / "predictions_val.csv", index=False)
    found = worklist.validation_sem(tmp_path)
    expected = progression.repeatability(np.array(patients)[sick], error[sick], np.zeros(40))
    assert found["patients"] == 20 and found["value"] == pytest.approx(expected["value"])
    val.iloc[:18].to_csv(tmp_path / "predictions_val.csv", index=False)
    assert worklist.validation_sem(tmp_path)["value"] is None
    val.assign(extent=None).to_csv(tmp_path / "predictions_val.csv", index=False)
    assert worklist.validation_sem(tmp_path)["value"] is None


# --- in a browser -----------------------------------------------------------------------------

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium: apt-get install chromium, and the page is tested in it")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=120_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page of 12 films on disk, and its worklist."""
    path = tmp_path_factory.mktemp("page") / "worklist.html"
    html, table = page()
    path.write_text(html, encoding="utf-8")
    return path, table[table["status"] == "ok"]


@pytest.fixture
def visit(browser, site):
    """A function that opens the page; afterwards no console error and no request is allowed."""
    contexts, errors, requests = [], [], []

    def open_page(path=site[0], **options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(60_000)
        tab.on("console", lambda m: errors.append(m.text) if m.type != "log" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file://", "data:"))] == []
    assert sum(url.startswith("file://") for url in requests) == len(contexts)


def column(tab, key):
    return tab.eval_on_selector_all(
        ".film:not([hidden])", f"rows => rows.map(r => r.dataset.{key})"
    )


def sorting(tab):
    heads = tab.get_by_role("columnheader").all()
    states = {head.inner_text().strip(): head.get_attribute("aria-sort") for head in heads}
    return {name: state for name, state in states.items() if state not in ("none", None)}


def test_headers_sort_up_and_down(visit, site):
    tab, table = visit(), site[1]
    assert column(tab, "place") == [str(i) for i in range(1, 13)]
    assert sorting(tab) == {"Urgency": "ascending"}
    for name, key, values in (("Extent", "extent", table["extent"]), ("Disease", "disease", None)):
        button = tab.get_by_role("button", name=name, exact=True)
        button.click()
        assert sorting(tab) == {name: "descending"}
        found = [float(value) for value in column(tab, key)]
        assert found == sorted(found, reverse=True)
        assert values is None or found == pytest.approx(sorted(values, reverse=True))
        button.press("Enter")
        assert sorting(tab) == {name: "ascending"}
        assert [float(value) for value in column(tab, key)] == sorted(found)
    tab.get_by_role("button", name="Film", exact=True).click()
    plain = [name for name in column(tab, "name") if "<" not in name]
    assert plain == [f"films/{i:03d}.png" for i in range(11)]
    assert "by film, ascending" in tab.get_by_role("status").inner_text()


def test_filters_show_what_was_asked_for(visit, site):
    tab, table = visit(), site[1]
    status, find = tab.get_by_role("status"), tab.get_by_role("searchbox")
    assert status.inner_text() == "12 of 12 films"
    find.fill("P2")
    assert set(column(tab, "name")) == {"films/004.png", "films/005.png"}
    find.fill("no such film")
    assert column(tab, "name") == [] and tab.get_by_text("No film fits").is_visible()
    find.fill("")
    show = tab.get_by_label("Show")
    show.select_option("in doubt")
    assert len(column(tab, "name")) == table["to_person"].notna().sum() > 0
    for call in progression.CALLS:
        show.select_option(f"course: {call}")
        assert len(column(tab, "name")) == (table["course"] == call).sum()
    show.select_option("called COVID")
    assert len(column(tab, "name")) == (table["predicted"] == "COVID").sum() > 0
    show.select_option("all films")
    tab.get_by_label("newest of each patient").check()
    assert len(column(tab, "name")) == 6 and status.inner_text() == "6 of 12 films"


def test_maps_toggle_one_by_one_and_together(visit):
    tab = visit()
    heats = tab.locator("img.heat")
    assert heats.count() == 11 and tab.locator(".picture:disabled").count() == 1
    assert not heats.first.is_visible()
    one = tab.locator(".picture:enabled").first
    one.click()
    assert one.get_attribute("aria-pressed") == "true" and heats.first.is_visible()
    assert not heats.last.is_visible()
    every = tab.locator("#maps")
    every.click()
    assert every.get_attribute("aria-pressed") == "true"
    assert all(heat.is_visible() for heat in heats.all())
    every.click()
    assert not any(heat.is_visible() for heat in heats.all())


def test_everything_is_reached_by_keyboard(visit):
    tab = visit()
    reached = []
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.outerHTML.slice(0, 400)"))
        if tab.evaluate("document.activeElement.matches('.picture')"):
            break
    text = " ".join(reached)
    controls = ('class="skip"', "<summary", 'id="find"', 'id="show"', 'id="newest"', 'id="maps"')
    for control in (*controls, 'data-key="place"', 'data-key="person"', "#rejected"):
        assert control in text, control
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    pressed = "document.activeElement.ariaPressed"
    place = "document.activeElement.closest('.film').dataset.place"
    tab.keyboard.press("Space")
    assert (tab.evaluate(pressed), tab.evaluate(place)) == ("true", "1")
    tab.keyboard.press("ArrowDown")
    second = int(tab.evaluate(place))
    assert second > 1 and tab.evaluate(pressed) == "false"
    tab.keyboard.press("End")
    assert int(tab.evaluate(place)) >= 11
    tab.keyboard.press("Home")
    assert tab.evaluate(place) == "1"


def test_markup_in_names_appears_as_text(visit):
    tab = visit()
    assert tab.title() == "Worklist · a <i>run</i>"
    assert tab.locator(".name", has_text=IMG).count() == 1
    assert tab.locator(".who", has_text=SCRIPT).count() == 2
    assert tab.locator("img[src=x], .film script, section script, section td b").count() == 0
    section = tab.locator("#rejected")
    assert "<b>not</b> an image" in section.inner_text() and "empty file" in section.inner_text()


def test_policy_stops_a_request(browser, site):
    tab = browser.new_page()
    tab.goto(site[0].as_uri())
    violated = """new Promise(done => {
        document.addEventListener("securitypolicyviolation", e => done(e.violatedDirective));
        const image = new Image(); image.src = "http://localhost/x.png";
        document.body.append(image);
    })"""
    assert tab.evaluate(violated) == "img-src"
    tab.close()


def luminance(colour):
    """Relative luminance (WCAG 2) of "rgb(r, g, b)"."""
    rgb = np.array([float(x) for x in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(tab, selector, ground):
    front, back = (
        luminance(tab.eval_on_selector(where, f"e => getComputedStyle(e).{name}"))
        for where, name in ((selector, "color"), (ground, "backgroundColor"))
    )
    return (max(front, back) + 0.05) / (min(front, back) + 0.05)


@pytest.mark.parametrize(
    ("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")]
)
def test_text_is_readable_in_light_dark_and_print(visit, scheme, media):
    tab = visit(color_scheme=scheme)
    tab.emulate_media(media=media, color_scheme=scheme)
    ground = luminance(tab.eval_on_selector("body", "e => getComputedStyle(e).backgroundColor"))
    assert ground < 0.05 if (scheme, media) == ("dark", "screen") else ground > 0.85
    pairs = [("h1", "body"), (".counts", "body"), (".disclaimer", ".disclaimer")]
    pairs += [(text, ".film") for text in (".name", ".folder", ".figure", ".badge", ".urgency")]
    for selector, behind in pairs:
        assert contrast(tab, selector, behind) >= 4.5, selector
    assert tab.locator(".tools").is_visible() == (media == "screen")
    assert tab.get_by_text("Urgency is P(disease)").is_visible() == (media == "print")


@pytest.mark.parametrize("width", [390, 900, 1280])
def test_page_fits_its_width(visit, width):
    tab = visit(viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.get_by_role("button", name="Course", exact=True).is_visible()
    tab.get_by_text("How to read this page").click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_500_films_open_quickly(visit, tmp_path, capsys):
    path = tmp_path / "500.html"
    path.write_text(page(500)[0], encoding="utf-8")
    start = time.perf_counter()
    tab = visit(path)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\n500 films: {path.stat().st_size / 1e6:.1f} MB, open in {seconds:.1f} s")
    assert tab.locator(".film").count() == 500
    assert tab.get_by_role("status").inner_text() == "500 of 500 films"
    assert path.stat().st_size < 25e6 and seconds < 30  # the aim is 3; a busy machine is slower
