"""What people know a session by, and the name of its file."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import PurePath

from statestore.reports import messages
from statestore.reports.layout import Html, link, shortened, text_of
from statestore.reports.queries import Label
from statestore.reports.text import escape

CONVERSATIONS = "conversations"
# Names that no file system takes for others, long enough for none of those that Windows keeps for itself.
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{7,79}")
_TITLE, _PROMPT, _PROJECT = 90, 150, 60


def file_name(session_id: str, page: int = 1) -> str:
    """The file of a session, or of a further page of it: its id, or a digest if that cannot name a file anywhere."""
    number = "" if page == 1 else f".{page}"
    if _PLAIN.fullmatch(session_id):
        return f"{session_id}{number}.html"
    slug = re.sub(r"[^a-z0-9]+", "-", session_id.lower()[:40]).strip("-")
    return f"{slug}~{hashlib.sha256(session_id.encode(errors='surrogatepass')).hexdigest()[:16]}{number}.html"


def title_of(label: Label) -> str:
    """A line: the title, or else the first prompt, or else the id."""
    return shortened(label.title or "", _TITLE) or shortened(prompt_of(label), _TITLE) or label.session_id


def prompt_of(label: Label) -> str:
    return messages.prompt(label.prompt_content, bool(label.prompt_is_whole))


def described(label: Label, *, address: str | None = None) -> Html:
    """The title, and below it what else tells the session from others."""
    title: str | Html = title_of(label)
    if address is not None:
        title = link(address, title)
    lines = [" · ".join(_below(label))]
    prompt = shortened(prompt_of(label), _PROMPT)
    if label.title and prompt:
        lines.insert(0, f"“{prompt}”")
    return Html(text_of(title) + "".join(f'<span class="sub">{escape(line)}</span>' for line in lines if line))


def _below(label: Label) -> Iterator[str]:
    if label.project_root:
        yield _end_of(label.project_root)
    if label.agent_name:
        yield label.agent_name
    if title_of(label) != label.session_id:
        yield shortened(label.session_id, 40)


def _end_of(path: str) -> str:
    """The last two folders of a path."""
    parts = PurePath(path).parts
    return shortened("/".join(parts[-2:]) if len(parts) > 3 else path, _PROJECT)
