"""The page in a real browser: no errors, no network, tables that sort by mouse and keyboard, pictures that load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from srat_fast.report.build import PAGE, build_report
from tests.report.conftest import make_record, make_study, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if CHROMIUM is None:
        if os.geteuid() == 0:
            pytest.fail("chromium is missing; .ci/chromium installs it")
        pytest.skip("needs chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """One study and its report for all tests that only look at it."""
    root = make_study(tmp_path_factory.mktemp("page"))
    build_report([root])
    return root


@pytest.fixture
def page(browser, study):
    """The report of the study, opened from disk; fails the test on console errors and on any request that leaves."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: problems.append(request.url) if not is_local(request.url) else None)
    opened.goto((study / "report" / PAGE).as_uri())
    yield opened
    opened.close()
    assert problems == []


def is_local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


def column(page, table: int, number: int) -> list[str]:
    return (
        page.locator("table.sortable")
        .nth(table)
        .locator(f"tbody tr td:nth-child({number})")
        .all_inner_texts()
    )


def test_the_table_of_runs_fits_and_says_in_what_each_differs(browser, tmp_path) -> None:
    """What a method brings, or an older record lacks, is no difference."""
    runs = {
        "a": make_record(method="ce"),
        "b": make_record(method="ce", seed=1),
        "c": make_record(method="trades", seed=0),
        "d": make_record(**{"method": "srat-ldam", "optim.weight_decay": 0.5}),
        "e": make_record(method="srat-ldam"),
    }
    for section in ("feedback", "stages"):
        del runs["a"]["recipe"][section]
    del runs["a"]["recipe"]["model"]["start"]
    audited = {"verdict": "reliable", "checks": []}
    for name, record in runs.items():
        write_run(tmp_path / f"cifar10-exp-100-{name}-seed0-123456789abc", record | {"audit": audited})
    build_report([tmp_path])
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    try:
        opened.goto((tmp_path / "report" / PAGE).as_uri())
        assert column(opened, -1, 14) == ["", "", "", "optim.weight_decay = 0.5", ""]
        room = "all => all.map(box => box.scrollWidth - box.clientWidth)"
        assert opened.eval_on_selector_all("#runs .wide", room) == [0]
    finally:
        opened.close()


def test_tables_and_pictures_are_there(page) -> None:
    assert page.locator("table.sortable").count() == 2
    assert column(page, 0, 1)[:3] == ["natural", "ce", "focal"]
    widths = page.eval_on_selector_all("img", "all => all.map(i => i.complete && i.naturalWidth)")
    assert len(widths) == 7
    assert all(width > 100 for width in widths)
    assert all(page.locator("img").nth(i).get_attribute("alt") for i in range(7))


def test_sorting_by_mouse_is_by_value_and_turns_round(page) -> None:
    robust = page.locator("table.sortable").first.get_by_role("button", name="robust", exact=True)
    robust.click()
    ascending = column(page, 0, 5)
    assert ascending[:3] == ["-", "-", "12.00"]
    assert ascending[-1] == "53.00 ± 3.61"
    assert page.locator("th[aria-sort=ascending]").count() == 1
    robust.click()
    assert column(page, 0, 5) == ascending[::-1]
    assert page.locator("th[aria-sort=descending]").inner_text() == "robust"


def test_sorting_by_keyboard(page) -> None:
    page.locator("table.sortable").first.get_by_role("button", name="method").focus()
    page.keyboard.press("Enter")
    assert column(page, 0, 1) == sorted(column(page, 0, 1))
    page.keyboard.press("Space")
    assert column(page, 0, 1) == sorted(column(page, 0, 1), reverse=True)


def test_links_lead_to_run_directories_and_files(page, study) -> None:
    base = study / "report"
    links = page.eval_on_selector_all(
        "a[href]:not([href^='#'])", "all => all.map(a => a.getAttribute('href'))"
    )
    assert len(links) == 10 + 2 * 7
    assert all((base / link).exists() for link in links)


def test_it_fits_a_phone_and_both_colour_schemes(page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    backgrounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(22, 24, 27)"]


def test_missing_figures_are_named_with_what_makes_them(page) -> None:
    text = page.locator("#missing").inner_text()
    assert "srat-fast reproduce fig2" in text
    assert "Fig. 6:" not in text  # the study has a sweep of lambda


def test_names_are_escaped(browser, tmp_path) -> None:
    study = make_study(tmp_path)
    (study / "ce-0").rename(study / "<img src=x onerror=alert(1)>")
    build_report([study])
    opened = browser.new_page()
    opened.goto((study / "report" / PAGE).as_uri())
    assert opened.locator("img[src=x]").count() == 0
    opened.close()


def test_it_prints(page, tmp_path: Path) -> None:
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert len(page.pdf()) > 10_000
