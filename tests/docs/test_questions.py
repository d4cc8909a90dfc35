"""The questions of a newcomer are answered within two clicks of the first page, and of README.md."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import CHECKOUT

DOCS = CHECKOUT / "docs"
ASKED = tomllib.loads((Path(__file__).parent / "questions.toml").read_text())
QUESTIONS = [question for asker in ASKED.values() for question in asker]


def without_code(page: Path) -> str:
    return re.sub(r"^```(?!\{toctree).*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def linked(page: Path) -> set[Path]:
    """The pages that somebody sees who clicks on what is on *page*: links, and the table of contents."""
    text = without_code(page)
    found = {page.parent / target for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+\.md)", text)}
    for entries in re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for name in re.findall(r"^(?!:)(\S+)$", entries, re.MULTILINE):
            found |= set(page.parent.glob(f"{name}.md"))
    return {target.resolve() for target in found if target.exists()}


def within_two_clicks(first: Path) -> set[Path]:
    near = linked(first)
    return near.union(*(linked(page) for page in near if page.is_relative_to(DOCS)))


def section(question: dict[str, Any]) -> str:
    """What is under the heading, as one line."""
    text = (DOCS / question["page"]).read_text()
    heading = re.search(rf"^(#+) {re.escape(question['heading'])}$", text, re.MULTILINE)
    assert heading is not None, question
    rest = re.sub(
        r"^```.*?^```$", lambda code: code[0].replace("\n#", "\n #"), text[heading.end() :], flags=re.S | re.M
    )
    return " ".join(re.split(rf"^#{{1,{len(heading[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0].split())


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["asks"])
def test_it_is_answered(question: dict[str, Any]) -> None:
    page = (DOCS / question["page"]).resolve()
    for first in (DOCS / "index.md", CHECKOUT / "README.md"):
        assert page in within_two_clicks(first), first
    said = section(question)
    for statement in question["says"]:
        assert statement in said


def test_the_page_of_questions_leads_to_the_headings() -> None:
    page = DOCS / "questions.md"
    assert page.resolve() in linked(DOCS / "index.md")
    for question in QUESTIONS:
        anchor = re.sub(r"[^\w\- ]", "", question["heading"].lower()).replace(" ", "-")
        assert f"- [{question['asks']}]({question['page']}#{anchor})\n" in page.read_text()
    assert page.read_text().count("\n- ") == len(QUESTIONS) == 15
