"""The chat page in a real browser, before a real server whose model knows three answers by heart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support import ranks
from tests.support.browser import DESKTOP, PHONE, note_trouble, overflow
from tests.support.data import write_config
from tests.support.models import SMALL, memorise, model_of, save_run
from tests.support.serving import NAME, Server, address_of, serve_slowly
from trainer.config_loading import load_config
from trainer.tokens.chat import Message, render_chat
from trainer.tokens.tokenizer import IM_END, TextEncoder

pytestmark = [pytest.mark.web, pytest.mark.tools]

ELK = "A large deer <script>alert(1)</script> & <b onclick='alert(2)'>more</b>."
ANSWERS = {
    "What is an elk?": Message(role="assistant", content=ELK),
    "Think": Message(role="assistant", content="Four.", reasoning_content="Two and two."),
    "Long": Message(role="assistant", content="one two three four five six seven eight nine ten\n" * 2),
}


def conversation(question: str, encoder: TextEncoder) -> tuple[list[int], list[int]]:
    asked = [Message(role="user", content=question)]
    prompt = render_chat(asked, add_generation_prompt=True).encode(encoder).ids
    whole = render_chat([*asked, ANSWERS[question]]).encode(encoder).ids
    end = len(whole) - whole[::-1].index(IM_END)
    return prompt, whole[len(prompt) : end]


@pytest.fixture(scope="module")
def server(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    limits = {"serve__model_name": NAME, "serve__max_output_tokens": 200, "serve__context_tokens": 400}
    path = write_config(folder / "config.yaml", small_data, model=SMALL.model_dump(), **limits)
    encoder = TextEncoder(small_data / "tokenizer" / "tokenizer.json")
    model = memorise(model_of(SMALL), [conversation(question, encoder) for question in ANSWERS])
    save_run(load_config(path), model)
    process = ranks.start(serve_slowly, [str(path), 0.03], folder / "output")
    try:
        yield Server(address_of(process), path, process)
    finally:
        process.kill()


@pytest.fixture
def open_page(browser: Browser, server: Server, trouble: list[str]) -> Iterator[Any]:
    contexts = []

    def open_chat(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        note_trouble(page, lambda url: url.startswith(f"{server.url}/"), trouble)
        page.goto(server.url, wait_until="networkidle")
        page.evaluate("""localStorage.setItem("trainer-chat-settings", JSON.stringify({temperature: "0", top_p: "1"}))""")
        page.reload(wait_until="networkidle")
        expect(page.get_by_role("heading", level=1)).to_have_text(NAME)
        return page

    yield open_chat
    for context in contexts:
        context.close()


def ask(page: Page, question: str) -> Locator:
    """Type and send; returns the newest answer's text."""
    page.get_by_label("Your message").fill(question)
    page.keyboard.press("Enter")
    return page.locator("article.assistant").last.locator("> .text")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_question_is_answered_and_markup_in_the_answer_is_text(
    open_page: Any, trouble: list[str], scheme: str, viewport: dict[str, int]
) -> None:
    page = open_page(viewport=viewport, color_scheme=scheme)
    answer = ask(page, "What is an elk?")
    expect(answer).to_have_text(ELK)
    expect(button(page, "Regenerate")).to_be_visible()
    assert page.locator("article script, article b").count() == 0
    assert page.locator("article.user").inner_text().endswith("What is an elk?")
    assert overflow(page) == 0
    composer = page.get_by_label("Your message").bounding_box()
    assert composer is not None
    assert composer["y"] + composer["height"] <= viewport["height"]
    assert trouble == []


def test_an_answer_grows_and_stop_keeps_what_there_is(open_page: Any, server: Server, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    answer = ask(page, "Long")
    expect(answer).to_contain_text("one two")
    expect(button(page, "Send")).to_be_hidden()
    button(page, "Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    stopped = answer.inner_text()
    assert "one two" in stopped
    assert len(stopped) < 60
    server.wait_for_figure("texts_running", 0)
    ask(page, "Long")
    expect(button(page, "Stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_have_count(2)
    expect(page.get_by_label("Your message")).to_be_focused()
    assert trouble == []


def test_regenerate_asks_the_same_again(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    expect(ask(page, "What is an elk?")).to_have_text(ELK)
    with page.expect_request("**/v1/chat/completions") as caught:
        button(page, "Regenerate").click()
    assert [message["role"] for message in caught.value.post_data_json["messages"]] == ["user"]
    expect(page.locator("article.assistant")).to_have_count(1)
    expect(page.locator("article.assistant > .text")).to_have_text(ELK)
    assert trouble == []


def test_thoughts_are_folded_away_and_go_back_as_thoughts(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=PHONE)
    expect(ask(page, "Think")).to_have_text("Four.")
    thoughts = page.locator("article.assistant details")
    expect(thoughts.locator(".text")).to_be_hidden()
    thoughts.locator("summary").click()
    expect(thoughts.locator(".text")).to_have_text("Two and two.")
    with page.expect_request("**/v1/chat/completions") as caught:
        ask(page, "Long")
    assert caught.value.post_data_json["messages"][1] == {
        "role": "assistant", "content": "Four.", "reasoning_content": "Two and two.",
    }  # fmt: skip
    page.keyboard.press("Escape")
    assert trouble == []


def test_settings_hold_and_are_sent_and_an_error_is_shown_with_a_way_on(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button(page, "Settings").click()
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Longest answer, in tokens").fill("5000")
    page.get_by_label("Appearance").select_option("dark")
    button(page, "Done").click()
    assert page.evaluate(paper) != light
    page.reload(wait_until="networkidle")
    assert page.evaluate(paper) != light
    with page.expect_request("**/v1/chat/completions") as caught:
        ask(page, "What is an elk?")
    sent = caught.value.post_data_json
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["temperature"], sent["max_tokens"], sent["stream"]) == (0, 5000, True)
    expect(page.locator("article.assistant .note")).to_contain_text("Max_tokens 5000 was cut to this server's limit of 200.")
    page.context.set_offline(True)
    ask(page, "Long")
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")
    page.context.set_offline(False)
    del trouble[:]
    button(page, "Settings").click()
    page.get_by_label("Longest answer, in tokens").fill("")
    page.get_by_label("System message").fill("")
    page.keyboard.press("Enter")
    page.get_by_label("Top p").press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    button(page, "Try again").click()
    expect(page.locator("article.assistant > .text").last).not_to_be_empty()
    page.keyboard.press("Escape")
    assert trouble == []
    button(page, "New chat").click()
    expect(page.locator("article")).to_have_count(0)


def test_everything_can_be_reached_by_keyboard(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type("What is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("an elk?")
    expect(page.get_by_label("Your message")).to_have_value("What is\nan elk?")
    page.get_by_label("Your message").fill("What is an elk?")
    page.keyboard.press("Enter")
    expect(button(page, "Regenerate")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 20) || document.activeElement.id"))
    assert {"New chat", "Settings", "Copy", "Regenerate", "question"} <= set(reached)
    assert trouble == []


REFUSED = "console error: Failed to load resource: the server responded with a status of 400 (Bad Request)"


def test_a_message_that_is_too_long_goes_back_into_the_box_and_later_ones_work(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    long = "dog " * 450
    ask(page, long)
    expect(page.get_by_role("alert")).to_contain_text("Your message is too long")
    expect(page.get_by_label("Your message")).to_have_value(long.strip())
    expect(page.locator("article")).to_have_count(0)
    assert trouble == [REFUSED]
    expect(ask(page, "What is an elk?")).to_have_text(ELK)
    expect(page.get_by_role("alert")).to_have_count(0)
    ask(page, long)
    expect(page.get_by_role("alert")).to_contain_text("Your message is too long")
    expect(page.locator("article")).to_have_count(2)
    with page.expect_request("**/v1/chat/completions") as caught:
        ask(page, "Think")
    assert [message["content"] for message in caught.value.post_data_json["messages"]] == ["What is an elk?", ELK, "Think"]


def test_a_conversation_that_outgrows_the_context_goes_on_without_its_oldest_turns(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    page.evaluate(
        """localStorage.setItem("trainer-chat-settings", JSON.stringify({temperature: "0", top_p: "1", max_tokens: "2"}))"""
    )
    page.reload(wait_until="networkidle")
    notes = page.get_by_text("messages were left out: the context is full.")
    for number in range(1, 9):
        ask(page, "dog " * 50)
        expect(page.locator("article")).to_have_count(2 * number)
        expect(button(page, "Regenerate")).to_be_visible()
        if notes.count() == 2:
            break
    assert notes.count() == 2
    expect(page.locator("article.user").first).to_contain_text("dog dog")
    assert trouble == []


@pytest.mark.parametrize("secure", [True, False], ids=["by the browser's clipboard", "by the older way"])
def test_an_answer_is_copied_as_it_is(open_page: Any, trouble: list[str], secure: bool) -> None:
    page = open_page(viewport=DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    expect(ask(page, "What is an elk?")).to_have_text(ELK)
    read = page.evaluate_handle("() => { const board = navigator.clipboard; return () => board.readText(); }")
    if not secure:
        page.evaluate("""Object.defineProperty(navigator, "clipboard", {value: undefined})""")
    button(page, "Copy").click()
    expect(button(page, "Copied")).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("Copied")
    assert page.evaluate("read => read()", read) == ELK
    assert trouble == []


def test_an_empty_page_tells_how_small_the_model_is_and_an_example_is_asked_by_a_click(
    open_page: Any, trouble: list[str]
) -> None:
    page = open_page(viewport=PHONE)
    told = page.get_by_text("thousand parameters")
    expect(told).to_contain_text("Much of what it says is made up")
    assert overflow(page) == 0
    button(page, "What is an elk?").click()
    expect(page.locator("article.assistant > .text")).to_have_text(ELK)
    expect(told).to_be_hidden()
    button(page, "New chat").click()
    expect(told).to_be_visible()
    assert trouble == []


# What axe's rules of landmarks, names and keyboard access ask for, as far as this page can break them.
LANDMARKS = """() => {
  const landmark = "header, main, footer, nav, aside, dialog, form[aria-label], [role=region]";
  const text = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const shown = [...document.body.querySelectorAll("*")].filter((each) => each.checkVisibility() && !each.matches("script"));
  return {
    outside: shown.filter((each) => text(each) && !each.closest(landmark)).map((each) => each.outerHTML),
    misused: [...document.querySelectorAll("main[role], header[role], form[role], dialog[role]")].map((each) => each.outerHTML),
    counts: ["main", "body > header", "h1", "main [role=log]"].map((each) => document.querySelectorAll(each).length),
    ids: [...document.querySelectorAll("[id]")].map((each) => each.id),
    unreachable: shown.filter((each) => each.scrollHeight > each.clientHeight + 1 && each.tabIndex < 0
      && ["auto", "scroll"].includes(getComputedStyle(each).overflowY)).map((each) => each.outerHTML),
  };
}"""


def test_landmarks_hold_everything_and_none_is_turned_into_something_else(open_page: Any) -> None:
    page = open_page(viewport=PHONE)
    for filled in (False, True):
        if filled:
            expect(ask(page, "Think")).to_have_text("Four.")
        found = page.evaluate(LANDMARKS)
        assert found["outside"] == found["misused"] == found["unreachable"] == []
        assert found["counts"] == [1, 1, 1, 1]
        assert len(set(found["ids"])) == len(found["ids"])
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("log", name="Conversation")).to_have_attribute("aria-live", "off")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_to_object_to(open_page: Any, viewport: dict[str, int], scheme: str) -> None:
    page = open_page(viewport=viewport, color_scheme=scheme)
    for filled in (False, True):
        if filled:
            expect(ask(page, "Think")).to_have_text("Four.")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_the_policy_stops_a_script_that_is_not_the_pages_own(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'changed'";
        document.body.append(script);
    }""")
    expect(page).to_have_title(NAME)
    assert any("Content Security Policy" in line for line in trouble)


def test_a_server_that_is_gone_is_told(open_page: Any, small_data: Path) -> None:
    page = open_page(viewport=DESKTOP)
    page.context.set_offline(True)
    ask(page, "What is an elk?")
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")
    page.context.set_offline(False)
    button(page, "Try again").click()
    expect(page.locator("article.assistant > .text")).to_have_text(ELK)
