"""The viewer in a real browser, against a real server with real imaging."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, Request, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.core.authorization import (
    Action,
    AuthResult,
    DenialReason,
    Denied,
    Principal,
    Role,
    authorize,
)
from edge_agent.security.authentication import ClientCredentials
from edge_agent.serving.http.access import HttpAccessControl
from hilum.catalog import CATALOG
from tests.conftest import pydicom_file
from tests.support.agents.http import SCRIPTED_FINDINGS, ScriptedEngine, http_app, serve_in_thread
from tests.support.agents.tagged import SIDE, fake_pipeline, settings
from tests.support.system.browser import chromium

pytestmark = [pytest.mark.service("chromium"), pytest.mark.slow]

OPERATING_POINT = 0.25
ABOVE = [score for _, score, _ in SCRIPTED_FINDINGS if score >= OPERATING_POINT]
RG1 = "RG1_UNCI.dcm"
ANKLE = "RG3_UNCI.dcm"


def _app() -> FastAPI:
    return http_app(fake_pipeline(settings(), None, ScriptedEngine()))


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with serve_in_thread(_app) as origin:
        yield origin


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@dataclass
class WatchedPage:
    """A page with its requests and errors; the 4xx responses of refusals are no errors."""

    page: Page
    origin: str
    errors: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("requestfailed", self._on_failed)

    def _on_console(self, message: Any) -> None:
        refused = re.search(r"status of 4\d\d", message.text)
        if message.type in {"error", "warning"} and not refused:
            self.errors.append(message.text)

    def _on_failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":
            self.errors.append(f"{request.url}: {request.failure}")

    def check(self) -> None:
        assert self.errors == []
        local = (f"{self.origin}/", f"blob:{self.origin}/")
        assert [url for url in self.requested if not url.startswith(local)] == []


OpenPage = Callable[..., WatchedPage]


@pytest.fixture
def open_page(browser: Browser, origin: str) -> Iterator[OpenPage]:
    """Return a function that opens the page in a new profile; check all pages at the end."""
    contexts: list[BrowserContext] = []
    opened: list[WatchedPage] = []

    def open_page(
        width: int = 1280, height: int = 800, locale: str = "en-GB", at: str = ""
    ) -> WatchedPage:
        context = browser.new_context(viewport={"width": width, "height": height}, locale=locale)
        context.set_default_timeout(15_000)
        contexts.append(context)
        watched = WatchedPage(context.new_page(), origin)
        opened.append(watched)
        watched.page.goto(origin)
        expect(watched.page.locator("body")).to_have_attribute("data-state", "idle")
        return watched

    yield open_page
    for watched in opened:
        watched.check()
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page().page


def choose(page: Page, name: str = RG1, *, state: str = "done") -> None:
    page.set_input_files("#file", pydicom_file(name))
    expect(page.locator("body")).to_have_attribute("data-state", state)


def boxes(page: Page) -> Any:
    return page.locator("#boxes .box")


def _record_requests(app: ASGIApp, sent: bytearray) -> ASGIApp:
    """Return the application; it appends everything that is sent to it to `sent`."""

    async def recording(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_record() -> Message:
            message = await receive()
            sent.extend(message.get("body", b""))
            return message

        for name, value in scope["headers"]:
            sent.extend(name + value)
        await app(scope, receive_and_record, send)

    return recording


class TestResult:
    def test_a_radiograph_appears_with_its_boxes_names_and_scores(self, page: Page) -> None:
        choose(page)
        expect(boxes(page)).to_have_count(len(ABOVE))
        expect(page.locator("#findings .score")).to_have_text([f"{score:.2f}" for score in ABOVE])
        expect(page.locator("#findings .name").first).to_have_text("Nodule or mass")
        expect(page.locator("#summary")).to_have_text("4 findings reached their thresholds.")
        expect(page.locator("#boxes .label").first).to_contain_text("Nodule or mass  0.81")
        expect(page.locator("#announce")).to_contain_text("Nodule or mass")
        assert _brightness(page) > 20

    def test_boxes_are_where_the_findings_are(self, page: Page) -> None:
        choose(page)
        expect(boxes(page)).to_have_count(len(ABOVE))
        # The model's input is square: RG1 (1955 rows x 1841 columns) is padded left and right.
        rows, columns = 1955, 1841
        inner = round(SIDE * columns / rows)
        left = (SIDE - inner) // 2
        (_, _, (x_min, y_min, x_max, y_max)) = SCRIPTED_FINDINGS[0]
        expected = [
            (x_min * SIDE - left) / inner,
            y_min,
            (x_max * SIDE - left) / inner,
            y_max,
        ]
        frame = page.locator('#boxes .box[data-id="0"] .line').bounding_box()
        picture = _picture(page, rows, columns)
        assert frame
        found = [
            (frame["x"] - picture["x"]) / picture["width"],
            (frame["y"] - picture["y"]) / picture["height"],
            (frame["x"] + frame["width"] - picture["x"]) / picture["width"],
            (frame["y"] + frame["height"] - picture["y"]) / picture["height"],
        ]
        assert found == pytest.approx(expected, abs=0.01)

    def test_dropping_a_file_works_anywhere_on_the_page(self, page: Page) -> None:
        handle = page.evaluate_handle(
            """async (bytes) => {
                const transfer = new DataTransfer();
                const data = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
                transfer.items.add(new File([data], "Doe^Jane.dcm"));
                return transfer;
            }""",
            _base64(RG1),
        )
        page.dispatch_event("#result", "dragover", {"dataTransfer": handle})
        expect(page.locator("#release")).to_be_visible()
        page.dispatch_event("#result", "drop", {"dataTransfer": handle})
        expect(boxes(page)).to_have_count(len(ABOVE))
        expect(page.locator("#release")).to_be_hidden()

    def test_the_files_name_stays_in_the_browser(self, browser: Browser, tmp_path: Path) -> None:
        file = tmp_path / "Doe^Jane.dcm"
        file.write_bytes(pydicom_file(RG1).read_bytes())
        sent = bytearray()
        with serve_in_thread(lambda: _record_requests(_app(), sent)) as origin:
            page = browser.new_page()
            page.goto(origin)
            expect(page.locator("body")).to_have_attribute("data-state", "idle")
            page.set_input_files("#file", file)
            expect(boxes(page)).to_have_count(len(ABOVE))
            page.locator("#image-facts summary").click()
            expect(page.locator("#image-facts-list")).to_contain_text("Doe^Jane.dcm")
            page.close()
        assert len(sent) > 2 * len(file.read_bytes())
        assert b"Jane" not in sent

    def test_a_finding_and_its_box_highlight_each_other(self, page: Page) -> None:
        choose(page)
        second = page.locator("#findings button").nth(1)
        second.hover()
        expect(page.locator("#boxes .box.active")).to_have_attribute("data-id", "1")
        page.locator("#result-title").hover()
        expect(page.locator("#boxes .box.active")).to_have_count(0)
        frame = page.locator('#boxes .box[data-id="3"] .line').bounding_box()
        assert frame
        page.mouse.move(frame["x"] + 5, frame["y"] + frame["height"] - 5)
        expect(page.locator("#findings button.active")).to_have_attribute("data-id", "3")
        second.click()
        page.locator("#result-title").hover()
        expect(second).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#boxes .box.active")).to_have_attribute("data-id", "1")

    def test_an_image_that_is_decoded_late_does_not_appear_with_anothers_findings(
        self, page: Page
    ) -> None:
        """Its decoding ends only after the next image has its findings."""
        page.evaluate(
            """() => {
                const decode = window.createImageBitmap.bind(window);
                window.late = [];
                window.createImageBitmap = async (...options) => {
                    const first = window.late.length === 0;
                    let done;
                    window.late.push(new Promise((resolve) => { done = resolve; }));
                    if (first) {
                        window.isHeld = true;
                        await new Promise((resolve) => { window.finishDecoding = resolve; });
                    }
                    const bitmap = await decode(...options);
                    setTimeout(done);
                    return bitmap;
                };
            }"""
        )
        page.set_input_files("#file", _white_picture())
        page.evaluate(
            """() => new Promise((done) => {
                const poll = () => (window.isHeld ? done() : setTimeout(poll, 10));
                poll();
            })"""
        )
        choose(page)
        expect(boxes(page)).to_have_count(len(ABOVE))
        right = _brightness(page)
        page.evaluate("async () => { window.finishDecoding(); await Promise.all(window.late); }")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        assert _brightness(page) == pytest.approx(right, abs=0.01)


class TestSettings:
    def test_the_threshold_shows_and_hides_at_once(self, page: Page) -> None:
        choose(page)
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        slider = page.locator("#threshold")
        for threshold, shown in (("0.5", 2), ("0.05", len(SCRIPTED_FINDINGS)), ("0.95", 0)):
            slider.fill(threshold)
            expect(boxes(page)).to_have_count(shown)
            expect(page.locator("#findings button")).to_have_count(shown)
        expect(page.locator("#summary")).to_have_text("No finding is shown with your settings.")
        expect(page.locator("#summary-more")).to_contain_text("4 findings")
        expect(page.locator("#summary-more")).to_contain_text("does not mean")
        page.locator("#threshold-own").click()
        expect(boxes(page)).to_have_count(len(ABOVE))
        assert requested == []

    def test_a_finding_below_its_own_threshold_is_marked(self, page: Page) -> None:
        choose(page)
        page.locator("#threshold").fill("0.05")
        expect(page.locator("#findings .below")).to_have_count(len(SCRIPTED_FINDINGS) - len(ABOVE))
        expect(page.locator("#findings .below").first).to_have_text(
            "below its own threshold of 0.25"
        )

    def test_kinds_are_switched_off_and_on(self, page: Page) -> None:
        choose(page)
        masses = page.locator('#kinds input[data-class="nodule_mass"]')
        masses.uncheck()
        expect(boxes(page)).to_have_count(len(ABOVE) - 2)
        expect(page.locator("#summary-more")).to_contain_text("2 findings")
        page.locator("#kinds-none").click()
        expect(boxes(page)).to_have_count(0)
        page.locator("#kinds-all").click()
        expect(boxes(page)).to_have_count(len(ABOVE))
        expect(masses).to_be_checked()

    def test_the_next_image_starts_with_nothing_hidden(self, page: Page) -> None:
        choose(page)
        page.locator("#kinds-none").click()
        expect(boxes(page)).to_have_count(0)
        choose(page)
        expect(boxes(page)).to_have_count(len(ABOVE))

    def test_the_next_image_starts_with_its_boxes_shown(self, page: Page) -> None:
        choose(page)
        page.locator("#boxes-toggle").click()
        expect(boxes(page)).to_have_count(0)
        choose(page)
        expect(boxes(page)).to_have_count(len(ABOVE))
        expect(page.locator("#boxes-toggle")).to_have_attribute("aria-pressed", "true")

    def test_the_language_is_switched_and_remembered(self, page: Page) -> None:
        choose(page)
        page.locator("#language").select_option("de")
        expect(page.locator("#summary")).to_have_text("4 Befunde haben ihre Schwellen erreicht.")
        expect(page.locator("#findings .score").first).to_have_text("0,81")
        expect(page.locator("#boxes .label").first).to_contain_text("Rundherd/Raumforderung")
        expect(page.locator("html")).to_have_attribute("lang", "de")
        page.reload()
        expect(page.locator(".drop-title")).to_have_text("Thorax-Röntgenbild hier ablegen")

    def test_the_browsers_language_is_taken_first(self, open_page: OpenPage) -> None:
        german = open_page(locale="de-AT").page
        expect(german.locator("#result-title")).to_have_text("Ergebnis")
        other = open_page(locale="vi-VN").page
        expect(other.locator("#result-title")).to_have_text("Result")


class TestPicture:
    def test_dragging_changes_the_window(self, page: Page) -> None:
        choose(page)
        expect(page.locator("#window-text")).to_have_text("W 256 L 128")
        before = _brightness(page)
        _drag(page, 60, 80)
        expect(page.locator("#window-text")).to_have_text("W 316 L 208")
        assert _brightness(page) < before
        page.locator("#reset").click()
        expect(page.locator("#window-text")).to_have_text("W 256 L 128")
        assert _brightness(page) == pytest.approx(before, abs=0.5)

    def test_zooming_keeps_the_point_and_boxes_follow(self, page: Page) -> None:
        choose(page)
        fitted = _percent(page)
        line = page.locator('#boxes .box[data-id="0"] .line')
        before = line.bounding_box()
        assert before
        corner = (before["x"], before["y"])
        page.mouse.move(*corner)
        page.mouse.wheel(0, -500)
        expect(page.locator("#zoom-text")).not_to_have_text(f"{fitted} %")
        after = line.bounding_box()
        assert after
        assert (after["x"], after["y"]) == pytest.approx(corner, abs=4)
        assert after["width"] / before["width"] == pytest.approx(_percent(page) / fitted, rel=0.1)
        page.locator("#zoom-fit").click()
        expect(page.locator("#zoom-text")).to_have_text(f"{fitted} %")

    def test_dragging_with_the_pan_tool_moves_picture_and_boxes(self, page: Page) -> None:
        choose(page)
        line = page.locator('#boxes .box[data-id="0"] .line')
        before = line.bounding_box()
        page.locator('label:has(input[value="pan"])').click()
        _drag(page, 50, -30)
        after = line.bounding_box()
        assert before
        assert after
        assert after["x"] - before["x"] == pytest.approx(50, abs=1)
        assert after["y"] - before["y"] == pytest.approx(-30, abs=1)
        expect(page.locator("#window-text")).to_have_text("W 256 L 128")

    def test_the_picture_can_be_inverted_and_boxes_hidden(self, page: Page) -> None:
        choose(page)
        before = _brightness(page)
        page.locator("#invert").click()
        expect(page.locator("#invert")).to_have_attribute("aria-pressed", "true")
        assert _brightness(page) != pytest.approx(before, abs=1)
        page.locator("#boxes-toggle").click()
        expect(boxes(page)).to_have_count(0)
        expect(page.locator("#findings button")).to_have_count(len(ABOVE))


class TestRefusals:
    def test_an_ankle_is_refused_in_plain_words(self, page: Page) -> None:
        choose(page, ANKLE, state="error")
        error = page.locator("#error")
        expect(error).to_be_visible()
        expect(error).to_contain_text("another part of the body")
        expect(error).to_contain_text("Choose a frontal X-ray of the chest.")
        expect(page.locator("#error-details")).to_contain_text("HTTP 422, body_part_not_chest")
        expect(page.locator("#error-retry")).to_be_hidden()
        expect(page.locator("#summary-more")).to_have_text(ANKLE)
        expect(boxes(page)).to_have_count(0)
        page.locator("#language").select_option("de")
        expect(error).to_contain_text("einer anderen Körperregion")
        choose(page, RG1)
        expect(error).to_be_hidden()
        expect(boxes(page)).to_have_count(len(ABOVE))

    def test_findings_disappear_with_their_image(self, page: Page) -> None:
        choose(page)
        expect(boxes(page)).to_have_count(len(ABOVE))
        page.set_input_files(
            "#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no image"}
        )
        expect(page.locator("body")).to_have_attribute("data-state", "error")
        expect(page.locator("#error-what")).to_have_text(
            "This file is not an image that the agent can read."
        )
        expect(page.locator("#findings button")).to_have_count(0)
        expect(page.locator("#surface")).to_be_hidden()

    def test_an_unreachable_agent_is_reported(self, browser: Browser) -> None:
        with serve_in_thread(_app) as origin:
            page = browser.new_page()
            page.goto(origin)
            expect(page.locator("body")).to_have_attribute("data-state", "idle")
        page.set_input_files("#file", pydicom_file(RG1))
        expect(page.locator("#error")).to_contain_text("cannot be reached")
        expect(page.locator("#error-retry")).to_be_visible()
        page.close()

    def test_the_page_asks_for_a_key_and_uses_it(self, browser: Browser) -> None:
        class OneKey:
            def decide(self, action: Action, caller: ClientCredentials) -> AuthResult:
                if caller.key == "sesame":
                    return Principal("key:0123456789", Role.CLINIC)
                if caller.key == "viewer":
                    return authorize(action, Principal("key:9876543210", Role.VIEWER))
                return Denied(DenialReason.NO_CREDENTIAL)

        def app_with_keys() -> FastAPI:
            pipeline = fake_pipeline(settings(), None, ScriptedEngine())
            return http_app(pipeline, access=HttpAccessControl(OneKey()))

        with serve_in_thread(app_with_keys) as origin:
            page = browser.new_page()
            page.goto(origin)
            expect(page.locator("body")).to_have_attribute("data-state", "idle")
            choose(page, RG1, state="error")
            expect(page.locator("#key-dialog")).to_be_visible()
            page.locator("#key-input").fill("viewer")
            page.keyboard.press("Enter")
            expect(page.locator("#error")).to_contain_text("not permitted to do this")
            expect(page.locator("#key-dialog")).to_be_visible()
            page.locator("#key-input").fill("\u200bsesame\n")  # As copied from a document.
            page.keyboard.press("Enter")
            expect(boxes(page)).to_have_count(len(ABOVE))
            page.close()

    def test_without_storage_the_page_works_as_long_as_it_is_open(
        self, browser: Browser, origin: str
    ) -> None:
        page = browser.new_page(locale="en-GB")
        page.add_init_script(
            """for (const area of ["localStorage", "sessionStorage"]) {
                Object.defineProperty(window, area, {
                    get() { throw new DOMException("blocked", "SecurityError"); },
                });
            }"""
        )
        page.goto(origin)
        expect(page.locator("body")).to_have_attribute("data-state", "idle")
        choose(page)
        expect(boxes(page)).to_have_count(len(ABOVE))
        page.locator("#language").select_option("de")
        expect(page.locator("#result-title")).to_have_text("Ergebnis")
        page.close()


class TestKeyboard:
    def test_the_page_works_without_a_mouse(self, page: Page) -> None:
        page.on("filechooser", lambda chooser: chooser.set_files(pydicom_file(RG1)))
        page.title()  # After this call the browser no longer opens its own file dialog.
        page.keyboard.press("o")
        expect(boxes(page)).to_have_count(len(ABOVE))
        page.keyboard.press("n")
        expect(page.locator("#findings button").first).to_be_focused()
        expect(page.locator("#boxes .box.active")).to_have_attribute("data-id", "0")
        page.keyboard.press("n")
        page.keyboard.press("Enter")
        expect(page.locator("#findings button").nth(1)).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("Escape")
        expect(page.locator("#boxes .box.active")).to_have_count(0)
        page.keyboard.press("t")
        expect(page.locator("#threshold")).to_be_focused()
        page.keyboard.press("Home")
        expect(boxes(page)).to_have_count(len(SCRIPTED_FINDINGS))
        page.keyboard.press("d")
        expect(boxes(page)).to_have_count(len(ABOVE))
        fitted = _percent(page)
        page.keyboard.press("+")
        expect(page.locator("#zoom-text")).not_to_have_text(f"{fitted} %")
        page.keyboard.press("0")
        expect(page.locator("#zoom-text")).to_have_text(f"{fitted} %")
        page.keyboard.press("b")
        expect(boxes(page)).to_have_count(0)
        page.keyboard.press("r")
        expect(boxes(page)).to_have_count(len(ABOVE))
        page.locator("#surface").focus()
        page.keyboard.press("Shift+ArrowRight")
        expect(page.locator("#window-text")).to_have_text("W 264 L 128")

    def test_tab_reaches_every_control_and_shows_the_focus(self, page: Page) -> None:
        choose(page)
        page.locator("body").focus()
        reached: set[str] = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            name, has_ring = page.evaluate(
                """() => {
                    const at = document.activeElement;
                    const shown = at.closest("label") ?? at;
                    const outline = (it) => getComputedStyle(it).outlineStyle;
                    const ring = [at, shown].some((it) => outline(it) !== "none");
                    return [at.id || at.dataset.class || at.name || at.tagName, ring];
                }"""
            )
            assert has_ring or name == "BODY", f"no focus ring on {name}"
            reached.add(name)
        wanted = {"language", "open-help", "tool", "zoom-in", "invert", "reset", "surface"}
        wanted |= {"another", "threshold", "kinds-all", "nodule_mass", "pulmonary_fibrosis"}
        assert wanted <= reached

    def test_help_lists_the_shortcuts_and_can_switch_them_off(self, page: Page) -> None:
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        expect(page.locator("#key-list dt")).to_have_count(15)
        page.locator("#single-keys").uncheck()
        page.keyboard.press("Escape")
        expect(page.locator("#help")).to_be_hidden()
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_hidden()


class TestLayout:
    @pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
    def test_the_page_fits_every_width(self, open_page: OpenPage, locale: str) -> None:
        page = open_page(locale=locale).page
        for name, state in ((None, "idle"), (RG1, "done"), (ANKLE, "error")):
            if name is not None:
                choose(page, name, state=state)
            for width in (360, 480, 768, 1024, 1600):
                page.set_viewport_size({"width": width, "height": 800})
                _assert_fits(page, width)
                expect(page.locator(".research strong")).to_be_in_viewport()
                if state == "done":
                    expect(boxes(page)).to_have_count(len(ABOVE))
                    surface = page.locator("#surface").bounding_box()
                    assert surface
                    assert surface["width"] >= min(width, 600) - 2
                    assert surface["height"] >= 340

    def test_the_disclaimer_stays_visible_when_scrolling(self, open_page: OpenPage) -> None:
        page = open_page(width=360, height=700).page
        choose(page)
        page.mouse.move(180, 650)
        page.locator("#model-facts").scroll_into_view_if_needed()
        expect(page.locator(".research strong")).to_be_in_viewport()

    def test_text_has_enough_contrast(self, page: Page) -> None:
        choose(page)
        poor = page.evaluate(CONTRAST)
        assert poor == []


def test_the_page_for_programmers_needs_no_other_server(open_page: OpenPage, origin: str) -> None:
    watched = open_page()
    page = watched.page
    page.goto(f"{origin}/docs")
    expect(page.locator("#operations h3")).to_contain_text(["POST /predict", "POST /predict/batch"])
    expect(page.locator("#PredictResponse")).to_contain_text("bundle_digest")
    expect(page.locator("#curl")).to_contain_text(f"{origin}/predict")
    _assert_fits(page, 1280)


def test_the_filter_lists_all_findings_of_the_catalogue(page: Page) -> None:
    choose(page)
    slugs = page.locator("#kinds input").evaluate_all("them => them.map(it => it.dataset.class)")
    assert slugs == [kind.slug for kind in CATALOG]


# Each text's contrast with the first opaque background (WCAG 2.2, 1.4.3: at least 4.5).
CONTRAST = """() => {
    const parse = (css) => css.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b]
        .map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (it) => {
        for (let at = it; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [0, 0, 0];
    };
    const poor = [];
    for (const it of document.querySelectorAll("body *")) {
        const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !it.checkVisibility() || it.closest("svg, :disabled")) continue;
        const [a, b] = [light(parse(getComputedStyle(it).color)), light(ground(it))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push([it.className || it.tagName, it.textContent, ratio]);
    }
    return poor;
}"""


def _assert_fits(page: Page, width: int) -> None:
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((it) => it.checkVisibility() && !it.closest("svg, .visually-hidden, .skip"))
            .filter((it) => it.getBoundingClientRect().right > window.innerWidth + 1)
            .map((it) => it.id || it.className || it.tagName)"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def _base64(name: str) -> str:
    return base64.b64encode(pydicom_file(name).read_bytes()).decode()


def _white_picture() -> FilePayload:
    picture = np.full((500, 400), 255, np.uint8)
    png = cv2.imencode(".png", picture)[1].tobytes()
    return {"name": "white.png", "mimeType": "image/png", "buffer": png}


def _brightness(page: Page) -> float:
    """Return the mean grey of the canvas after the next frame."""
    mean: float = page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
            const copy = new OffscreenCanvas(64, 64).getContext("2d", {willReadFrequently: true});
            copy.drawImage(document.querySelector("#canvas"), 0, 0, 64, 64);
            const data = copy.getImageData(0, 0, 64, 64).data;
            let sum = 0;
            for (let i = 0; i < data.length; i += 4) sum += data[i];
            done(sum / (data.length / 4));
        })))"""
    )
    return mean


def _drag(page: Page, dx: int, dy: int) -> None:
    surface = page.locator("#surface").bounding_box()
    assert surface
    x, y = surface["x"] + surface["width"] / 2, surface["y"] + surface["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()
    _brightness(page)


def _percent(page: Page) -> int:
    return int((page.locator("#zoom-text").text_content() or "").removesuffix("%").strip())


def _picture(page: Page, rows: int, columns: int) -> dict[str, float]:
    """Return the rectangle of a picture of this size that is fitted to the surface."""
    surface = page.locator("#surface").bounding_box()
    assert surface
    scale = min(surface["width"] / columns, surface["height"] / rows)
    width, height = columns * scale, rows * scale
    return {
        "x": surface["x"] + (surface["width"] - width) / 2,
        "y": surface["y"] + (surface["height"] - height) / 2,
        "width": width,
        "height": height,
    }
