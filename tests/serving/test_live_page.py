"""The live page in a real browser: a question typed in, votes by temperature, the texts, the verdict."""

from __future__ import annotations

import pytest


@pytest.fixture
def page(served, browser):
    """The page, open in a window; nothing on it may raise."""
    trouble = []
    page = browser.new_page()
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(served.url)
    yield page
    page.close()
    assert trouble == []


def ask(page, question, rule):
    """Types a question in, asks it, and waits for the words of its answer."""
    page.fill("#question", question)
    page.fill("#rule", rule)
    page.fill("#temperatures", "0.5, 1.0")
    page.fill("#samples", "6")
    page.click("#ask")
    page.wait_for_selector("#answer:not(:empty)")
    return page.text_content("#answer")


def test_a_vote_in_a_browser(page):
    """The answer, its votes at each temperature, every text."""
    assert ask(page, "2 + 2?", "majority") in ("answer: 4", "answer: 5")
    rows = page.locator("#votes tr").all()[1:]
    assert [row.locator("td").first.text_content() for row in rows] == ["0.5", "1"]
    assert page.locator(".text.ended").count() == 12
    assert "24 tokens written" in page.text_content("#cost")


def test_a_wrong_rule_is_told_and_another_question_goes_on(page):
    assert "no rule is called" in ask(page, "2 + 2?", "nonsense")
    page.wait_for_selector("#ask:enabled")
    assert ask(page, "2 + 2?", "majority").startswith("answer: ")


def test_a_tree_in_a_browser(page):
    """A beam search: legs hang below those that they go on from, with their scores, and the answer is told."""
    page.fill("#strategy", "beam:n=4,m=2,until=4")
    page.fill("#scorer", "signal:raw_logprob")
    assert ask(page, "2 + 2?", "").startswith("answer: ")
    assert page.locator("#tree .leg").count() >= 4
    assert "score " in page.text_content("#tree")
    assert page.locator("#tree ul > li.final").count() > 0
