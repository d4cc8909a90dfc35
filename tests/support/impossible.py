"""Tests of the contract that cannot be run in one of its worlds, each with the reason."""

from collections.abc import Iterator, Mapping

import pytest

_TRIGGERS = "the test's own trigger: Citus has none on distributed tables"
_PLAN = "the test reads the plan of one PostgreSQL; here each server makes its own"
_OTHERS = "the test makes tables anew or partitions them, which are not distributed then"
_PLAIN = "of the test's two servers one has plain tables and the other distributed ones"
_LIMIT = "the limit of a session is not that of the servers that the coordinator asks; see docs/citus.md"

# By the name of the test and, after a colon, a parameter; or by the name of the file.
ON_CITUS = {
    "test_a_full_disk_keeps_nothing_and_fails_nothing": _TRIGGERS,
    "test_a_value_that_the_database_refuses_is_returned": _TRIGGERS,
    "test_in_a_transaction_the_failure_counts": _TRIGGERS,
    "test_an_invalidation_finds_its_entries_in_an_index": _PLAN,
    "test_many_are_found_one_by_one_in_tables_that_were_never_analyzed": _PLAN,
    "test_ids_are_looked_up_by_their_index_in_a_table_that_was_never_analyzed": _PLAN,
    "test_tags_of_other_entries_stay_where_the_table_has_parts": _OTHERS,
    "test_partitioned.py": _OTHERS,
    "test_the_new_primary_is_found": _PLAIN,
    "test_an_operation_costs_what_is_written_here: sweep, nothing due": "the sweep keeps no sums, and costs less",
    "test_who_waits_too_long_for_a_lock_is_told": _LIMIT,
    "test_timeouts_hold_behind_a_pooler": _LIMIT,
    "test_timeouts_hold_beside_the_options_of_a_url": _LIMIT,
    "test_counts_of_a_joined_transaction_are_written_with_it_or_dropped": "who joins has to have a store on the engine",
    "test_an_import_whose_process_was_killed_goes_on": "1,320 sessions made one by one take longer than a test may",
    "test_an_operation_costs_what_is_written_here: ping, writes": "it asks two servers",
}
_INDEX = "the test looks for an index by name; partitions have others"
ON_PARTITIONS = {
    "test_an_invalidation_finds_its_entries_in_an_index": _INDEX,
    "test_ids_are_looked_up_by_their_index_in_a_table_that_was_never_analyzed": _INDEX,
}

_NAMED = "the test names the namespace"
_ELSEWHERE = "ids of sessions are unique within one namespace; a fork goes to that of its source"
_AGENTS = "what an agent keeps is in one namespace, and not in each user's"
SPREAD = {
    "test_a_session_comes_back_as_it_was_made": _NAMED,
    "test_a_session_is_made_once": _NAMED,
    "test_a_user_is_forgotten_with_a_receipt": _NAMED,
    "test_a_derived_id_is_the_same_everywhere": _NAMED,
    "test_a_store_shows_where_it_is_but_no_password": _NAMED,
    "test_an_append_to_no_session_fails": _NAMED,
    "test_a_fork_onto_a_living_session_fails": _ELSEWHERE,
    "test_a_fork_takes_the_place_of_a_session_that_expired": _ELSEWHERE,
    "test_the_sweep_deletes_expired_keys": _AGENTS,
    "test_keys_that_an_agent_keeps_for_a_user_are_erased_with_the_user": _AGENTS,
    "test_a_key_stays_its_users_until_another_one_is_named": _AGENTS,
}
# What can be said of a tenant; the other files are of one namespace, its limits, its connections or its statements.
SPREAD_FILES = frozenset(
    f"test_{name}.py"
    for name in (
        *("sessions", "history", "fork", "state", "pages", "turns", "expiry", "iterate", "windows"),
        *("shared_state", "values", "json", "conversations", "sdk_objects", "new_sessions"),
    )
)


def impossible(item: pytest.Item, *, citus: bool, partitioned: bool, spread: bool) -> str | None:
    """Why a test cannot be run in this world; None if it can."""
    known = SPREAD if spread else {}
    if item.get_closest_marker("postgresql"):
        known = {**known, **(ON_CITUS if citus else {}), **(ON_PARTITIONS if partitioned else {})}
    return next(_reasons(item, known), None)


def _reasons(item: pytest.Item, known: Mapping[str, str]) -> Iterator[str]:
    for key, reason in known.items():
        name, _, parameter = key.partition(": ")
        if name in (getattr(item, "originalname", item.name), item.path.name) and parameter in item.name:
            yield reason
