"""The site is built without a warning, and what is public is on it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import statestore
from statestore import errors, schema
from tests.docs.pages import CHECKOUT, PAGES, name_of

sys.path.append(str(CHECKOUT / "docs"))


pytestmark = pytest.mark.timeout(300)  # The site is built once.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--builder", "html"]
    done = subprocess.run(
        [*command, "--doctree-dir", folder / "doctrees", CHECKOUT / "docs", folder / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def test_it_is_built_and_nothing_is_fetched(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', page.read_text()), page


def test_all_public_names_are_in_the_reference(site: Path) -> None:
    import reference_pages

    named = [name for names in reference_pages.API.values() for name in names]
    assert len(named) == len(set(named))
    of_errors = {name for name in statestore.__all__ if name.endswith("Error") and hasattr(errors, name)}
    assert set(named) | of_errors == set(statestore.__all__)
    text = (site / "reference" / "api.html").read_text()
    for name in ("append", "fork", "get_or_compute", "acquire", "increment", "iterate", "turn"):
        assert re.search(rf'id="statestore\.\w+\.{name}"', text), name
    assert all(f'id="statestore.{name}"' in (site / "reference" / "errors.html").read_text() for name in of_errors)


def test_all_tables_and_views_are_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "schema.html").read_text()
    for name in (*schema.metadata.tables, *schema.VIEWS):
        assert f">{name}<" in text, name


@pytest.mark.parametrize("page", [*PAGES, *sorted((CHECKOUT / "docs/adapters").glob("*.md"))], ids=name_of)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if target.startswith("http"):
            continue
        found = (page.parent / target).resolve()
        assert found.exists() or found.parent == CHECKOUT / "docs" / "reference", target
