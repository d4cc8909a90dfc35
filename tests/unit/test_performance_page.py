"""docs/performance.md quotes tables that are written by programs, and none that is out of date."""

from benchmarks import page


def test_the_page_quotes_the_costs_that_the_contract_asserts() -> None:
    text = page.PAGE.read_text()

    assert page.filled(text, "costs", page.costs()) == text, "write it anew with: python -m benchmarks --page"


def test_the_page_has_a_place_for_every_table_of_a_run() -> None:
    text = page.PAGE.read_text()

    for name in page.BLOCKS:
        assert text.count(f"<!-- begin: {name} -->") == text.count(f"<!-- end: {name} -->") == 1
