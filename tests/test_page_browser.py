"""The page of the ledger in a real browser: filters, sorting, keyboard, phone, dark, on paper, without its script."""

import base64
import io
import os
import shutil
from itertools import pairwise

import pytest
from pages import HOSTILE, claims, fresh_ledger, full_ledger
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from linnet.report.page import anchor, page

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
REASON = "needs chromium and chromedriver (Debian: apt install chromium chromium-driver)"
if not (CHROMIUM and DRIVER) and os.environ.get("LINNET_BROWSER") != "required":
    pytest.skip(REASON, allow_module_level=True)

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
LAPTOP, PHONE = (1280, 800), (360, 740)
ONE = "yang2024/theorem-f8-lora"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert CHROMIUM, REASON
    assert DRIVER, REASON
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name, ledger in (("full", full_ledger()), ("fresh", fresh_ledger())):
        (folder / f"{name}.html").write_text(page(ledger, claims()), encoding="utf-8")
    return folder


@pytest.fixture
def load(browser, files):
    """Open a page anew; in the end nothing may have been complained of."""

    def opened(name="full", at="", size=LAPTOP, scheme="light", script=True):
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        browser.get("about:blank")  # else a change of what follows # loads nothing
        browser.get((files / f"{name}.html").as_uri() + (f"#{at}" if at else ""))
        if at and script:
            settle(browser)
        return browser

    yield opened
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert [line for line in browser.get_log("browser") if line["level"] != "INFO"] == []


def settle(driver):
    """Let the page do what it has put off."""
    driver.execute_async_script("setTimeout(arguments[0], 80)")


def evaluate(driver, expression):
    """Evaluate in the page, where its own script may be switched off."""
    found = driver.execute_cdp_cmd("Runtime.evaluate", {"expression": expression, "returnByValue": True})
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")


def shown(driver):
    return driver.execute_script(
        "return [...document.querySelectorAll('.ledger tbody tr')].filter(row => row.checkVisibility())"
        ".map(row => row.cells[0].innerText.trim())"
    )


def open_panels(driver):
    return driver.execute_script("return [...document.querySelectorAll('.panel[open]')].map(panel => panel.dataset.id)")


def everything_open(driver):
    driver.execute_script("document.querySelectorAll('details').forEach(box => { box.open = true; })")


def box(driver, name):
    return driver.find_element(By.ID, ":" + name)


def test_filters_show_a_claim_in_the_table_and_as_a_panel_or_in_neither(load):
    driver, rows = load(), full_ledger()["claims"]
    assert shown(driver) == [row["id"] for row in rows]
    Select(box(driver, "verdict")).select_by_visible_text("refuted")
    refuted = [row["id"] for row in rows if row["verdict"] == "refuted"]
    assert shown(driver) == refuted
    assert box(driver, "status").text == f"{len(refuted)} of {len(rows)} claims"
    panels = driver.execute_script(
        "return [...document.querySelectorAll('.panel')].filter(p => p.checkVisibility()).map(p => p.dataset.id)"
    )
    assert panels == refuted
    Select(box(driver, "paper")).select_by_visible_text("yang2024")
    assert shown(driver) == [name for name in refuted if name.startswith("yang2024/")]
    box(driver, "search").send_keys("Theorem F.8, LoRA")
    assert shown(driver) == [ONE]
    driver.find_element(By.CSS_SELECTOR, "[type=reset]").click()
    settle(driver)
    assert len(shown(driver)) == len(rows)


def column(driver, title):
    (found,) = [th for th in driver.find_elements(By.CSS_SELECTOR, ".ledger thead th") if th.text.startswith(title)]
    return found


def test_every_column_sorts_both_ways_and_what_has_no_value_comes_last(load):
    driver = load()
    values = {key: {} for key in ("tightness", "margin", "instances", "verdict")}
    for row in full_ledger()["claims"]:
        sound = row["verdict"] != "refuted"
        loose = sound and row["tight"] is False and row["ratio"]
        fitted = row["reason"] or (row["fit"] and "exponent" in row["fit"])
        factor = max(row["ratio"], 1 / row["ratio"]) if loose else 1.0 if sound and row["tight"] else None
        values["tightness"][row["id"]] = factor
        values["margin"][row["id"]] = None if fitted else row["margin"]
        values["instances"][row["id"]] = row["instances"]
        values["verdict"][row["id"]] = row["verdict"]
    for key, stored in values.items():
        known = [v for v in stored.values() if v is not None]
        for direction in ("ascending", "descending"):
            column(driver, key).find_element(By.TAG_NAME, "button").click()
            assert column(driver, key).get_attribute("aria-sort") == direction
            order = [stored[name] for name in shown(driver)]
            assert order == sorted(known, reverse=direction == "descending") + [None] * (len(order) - len(known))
        assert len(driver.find_elements(By.CSS_SELECTOR, "[aria-sort]")) == 1
    column(driver, "claim").find_element(By.TAG_NAME, "button").click()
    assert shown(driver).index("yang2024/lemma-f9") < shown(driver).index("yang2024/lemma-f12"), "as people sort"


def press(driver, *keys):
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def test_all_of_it_can_be_reached_by_keyboard(load):
    driver = load()
    driver.execute_script("document.body.tabIndex = -1; document.body.focus()")
    press(driver, Keys.TAB)
    skip = driver.switch_to.active_element
    assert skip.text == "Skip to the table"
    assert skip.is_displayed()
    ring = driver.execute_script(
        "const s = getComputedStyle(arguments[0]); return [s.outlineStyle, s.outlineWidth]", skip
    )
    assert ring == ["solid", "3px"]
    press(driver, Keys.ENTER)
    seen = []
    for _ in range(6):
        press(driver, Keys.TAB)
        seen.append(driver.switch_to.active_element)
    assert [e.get_attribute("id") for e in seen[:3]] == [":search", ":paper", ":verdict"]
    assert [e.tag_name for e in seen[3:]] == ["button"] * 3
    assert seen[5].text.startswith("claim")
    press(driver, Keys.ENTER)
    assert column(driver, "claim").get_attribute("aria-sort") == "ascending"
    for _ in range(9):
        press(driver, Keys.TAB)
    link = driver.switch_to.active_element
    assert (link.tag_name, link.text) == ("a", shown(driver)[0])
    press(driver, Keys.ENTER)
    settle(driver)
    assert open_panels(driver) == [shown(driver)[0]]
    focused = driver.switch_to.active_element
    assert focused.tag_name == "summary"
    press(driver, Keys.ENTER)
    assert open_panels(driver) == []


def test_the_address_keeps_the_panel(load):
    driver = load(at=ONE)
    assert open_panels(driver) == [ONE]
    assert driver.switch_to.active_element.tag_name == "summary"
    place = driver.execute_script("return document.querySelector('.panel[open] summary').getBoundingClientRect().top")
    assert -1 <= place < LAPTOP[1]
    driver.find_element(By.CSS_SELECTOR, ".panel[open] > summary").click()
    assert driver.execute_script("return location.hash") == ""
    other = driver.find_element(By.CSS_SELECTOR, '[data-id="liu2025/eq-17"] > summary')
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", other)
    other.click()
    assert driver.execute_script("return location.hash") == "#liu2025/eq-17"
    # What is linked is shown, whatever the filters say.
    Select(box(driver, "verdict")).select_by_visible_text("refuted")
    driver.execute_script("document.querySelector('.panel[open] a[href=\"#linnet/benefit\"]').click()")
    settle(driver)
    assert driver.find_element(By.ID, "linnet/benefit").is_displayed()


def test_an_address_of_any_letters_works(load):
    driver = load("fresh", at=anchor(HOSTILE))
    assert open_panels(driver) == [HOSTILE]
    assert driver.execute_script("return document.querySelectorAll('script').length") == 1


@pytest.mark.parametrize("size", [PHONE, LAPTOP])
def test_the_table_is_seen_whole(load, size):
    table = "const box = document.querySelector('.ledger').parentElement; return box.scrollWidth - box.clientWidth"
    assert load("full", size=size).execute_script(table) <= 0


@pytest.mark.parametrize(("name", "size"), [("full", PHONE), ("fresh", PHONE), ("fresh", LAPTOP)])
def test_nothing_is_wider_than_the_screen(load, name, size):
    driver = load(name, size=size)
    for _ in range(2):
        assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]
        wide = driver.execute_script(
            """const wide = [];
            for (const e of document.body.querySelectorAll('*')) {
              const r = e.getBoundingClientRect();
              if (r.width && r.right > innerWidth + 1 && !e.closest('.skip')) {
                let up = e.parentElement;
                while (up && !/auto|scroll|hidden/.test(getComputedStyle(up).overflowX)) up = up.parentElement;
                if (!up) wide.push(e.outerHTML.slice(0, 120));
              }
            }
            return wide;"""
        )
        assert wide == []
        everything_open(driver)


CONTRAST = """
const rgb = (colour) => {
  const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  c.fillStyle = colour; c.fillRect(0, 0, 1, 1);
  return [...c.getImageData(0, 0, 1, 1).data];
};
const known = new Map();
const read = (colour) => { if (!known.has(colour)) known.set(colour, rgb(colour)); return known.get(colour); };
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ground = (e) => { for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor);
  if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
const faint = new Map(); let seen = 0;
for (const e of document.querySelectorAll('body *:not(script):not(option)')) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
  const style = getComputedStyle(e);
  const [a, b] = [light(read(e instanceof SVGElement ? style.fill : style.color)), light(ground(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  seen += 1;
  if (ratio < 4.5) faint.set(e.tagName + '.' + e.className + ' ' + ratio.toFixed(2), e.textContent.slice(0, 40));
}
return [seen, [...faint], light(read(getComputedStyle(document.body).backgroundColor))];
"""


@pytest.mark.parametrize(("name", "scheme"), [("full", "dark"), ("fresh", "dark"), ("fresh", "light")])
def test_all_text_can_be_read(load, scheme, name):
    driver = load(name, scheme=scheme)
    everything_open(driver)
    seen, faint, ground = driver.execute_script(CONTRAST)
    assert seen > (5000 if name == "full" else 200)
    assert faint == []
    assert (ground < 0.1) == (scheme == "dark")
    placeholder = driver.execute_script(
        "return getComputedStyle(document.querySelector('[type=search]'), '::placeholder').color"
    )
    soft = driver.execute_script("return getComputedStyle(document.querySelector('.controls label')).color")
    assert placeholder == soft, "which was measured"


def test_a_verdict_is_never_told_by_colour_alone(load):
    driver = load()
    badges = driver.execute_script("return [...document.querySelectorAll('.badge')].map(b => b.textContent)")
    assert all(badge.split()[1] in {row["verdict"] for row in full_ledger()["claims"]} for badge in badges)


def test_formulas_are_typeset(load):
    driver = load()
    everything_open(driver)
    sizes = driver.execute_script(
        """return [...document.querySelectorAll('math')].map((m) => { const r = m.getBoundingClientRect();
             return [m.closest('.statement') ? 1 : 0, r.width, r.height, m.outerHTML.slice(0, 80)]; })"""
    )
    assert len([1 for statement, *_ in sizes if statement]) > 300
    assert [s for s in sizes if s[1] < 2 or s[2] < 5] == []
    # A matrix is a grid: cells of a row side by side, rows below each other.
    cells = driver.execute_script(
        """return [...document.querySelectorAll('.matrices mtable')]
             .filter((t) => [...t.querySelectorAll('mtr')].map((r) => r.querySelectorAll('mtd').length).join() == '2,2')
             .map((t) => [...t.querySelectorAll('mtd')].map((c) => { const r = c.getBoundingClientRect();
               return [c.textContent, Math.round(r.left), Math.round(r.top), r.width, r.height]; }))"""
    )
    (_, l0, t0, w, h), (_, l1, t1, *_), (_, l2, t2, *_), (_, l3, t3, *_) = cells[0]
    assert l0 == l2 < l1 == l3
    assert t0 == t1 < t2 == t3
    assert min(w, h) > 8
    # A script is raised and small: the exponent of |x|^2 does not stand on the line.
    up, down = driver.execute_script(
        """const m = document.querySelector('[id="linnet/cube"] .statement msup');
           return [m.lastElementChild.getBoundingClientRect().top, m.firstElementChild.getBoundingClientRect().top]"""
    )
    assert up < down


def test_histograms_stand_in_their_panels(load):
    driver = load("fresh")
    everything_open(driver)
    drawings = driver.find_elements(By.CSS_SELECTOR, "svg.histogram")
    assert drawings
    for svg in drawings:
        frame = svg.rect
        bars = [bar.rect for bar in svg.find_elements(By.CSS_SELECTOR, ".drawn rect, .searched rect")]
        assert bars
        assert all(bar["height"] > 3 for bar in bars)
        assert min(bar["x"] for bar in bars) > frame["x"]
        assert max(bar["x"] + bar["width"] for bar in bars) <= frame["x"] + frame["width"] + 1
        labels = [label.rect for label in svg.find_elements(By.TAG_NAME, "text")]
        assert min(label["x"] for label in labels) >= frame["x"] - 1
        base = max(bar["y"] + bar["height"] for bar in bars) - 1
        numbers = sorted((r["x"], r["x"] + r["width"]) for r in labels if r["y"] > base and r["width"] < 60)
        assert all(left[1] <= right[0] for left, right in pairwise(numbers)), "labels do not touch"
    colours = driver.execute_script(
        "return ['drawn', 'searched'].map(k => getComputedStyle(document.querySelector('g.' + k)).fill)"
    )
    assert len(set(colours)) == 2


def test_without_its_script_it_can_still_be_read(load):
    driver = load(at=ONE, script=False)
    assert evaluate(driver, "document.querySelector('.controls').checkVisibility()") is False
    assert evaluate(driver, "document.querySelectorAll('.ledger button').length") == 0
    assert evaluate(driver, "document.querySelectorAll('.ledger tbody tr').length") == len(full_ledger()["claims"])
    assert evaluate(driver, f"document.getElementById('{ONE}').checkVisibility({{contentVisibilityAuto: true}})")
    assert evaluate(driver, f"document.getElementById('{ONE}').closest('details').open"), "a link opens its panel"


def printed(driver):
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(base64.b64decode(driver.print_page())))
    return reader, "\n".join(leaf.extract_text() for leaf in reader.pages)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_printed_all_panels_are_open(load, script):
    driver = load("fresh", scheme="dark", script=script)
    _, said = printed(driver)
    rows = fresh_ledger()["claims"]
    assert said.upper().count("STATEMENT") >= len(rows)
    assert said.upper().count("HYPOTHESES") >= len(rows)
    assert "Jensen" in said, "proofs too"
    assert "free parameters" in said, "and instances"
    assert "Open all panels" not in said
    assert "Back to the table" not in said
    if script:
        assert open_panels(driver) == [], "and closed again"


def test_printed_is_what_the_filters_show(load):
    driver = load("fresh")
    Select(box(driver, "verdict")).select_by_visible_text("ill-posed")
    reader, said = printed(driver)
    assert "liu2025/eq-20" in said
    assert "Jensen" not in said
    assert len(reader.pages) <= 3
