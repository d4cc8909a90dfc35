"""Tests of the contract that cannot be run in one of its worlds, each with the reason."""

from collections.abc import Iterator, Mapping

import pytest

_TRIGGERS = "the test's own trigger: Citus has none on distributed tables"
_PLAN = "the test reads the plan of one PostgreSQL; here each server makes its own"
_OTHERS = "the test makes tables anew or partitions them, which are not distributed then"
_PLAIN = "of the test's two servers one has plain tables and the other distributed ones"
_STAYS = "Citus itself stays connected to a database"
_SETTINGS = "prices and settings are on every server, and written by one at a time; see docs/citus.md"
_LIMIT = "the limit of a session is not that of the servers that the coordinator asks; see docs/citus.md"

# By the name of the test and, after a colon, a parameter; or by the name of the file.
ON_CITUS = {
    "test_a_full_disk_keeps_nothing_and_fails_nothing": _TRIGGERS,
    "test_a_value_that_the_database_refuses_is_returned": _TRIGGERS,
    "test_in_a_transaction_the_failure_counts": _TRIGGERS,
    "test_an_extension_that_fails_where_it_can_be_written_is_told": _TRIGGERS,
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
    "test_an_import_whose_process_was_killed_goes_on": "1,320 sessions made one by one take longer than a test may",
    "test_an_operation_costs_what_is_written_here: ping, writes": "it asks two servers",
    "test_a_hundred_reads_write_once": "a read that extends a TTL asks two servers",
    "test_sync_takes_over_the_prices_of_the_package": "3,000 prices go to each server one by one; see docs/citus.md",
    "test_nothing_is_left_connected": _STAYS,
    "test_a_connection_whose_call_was_given_up_is_not_used_again": _STAYS,
    "test_a_store_that_is_closed_during_a_call_leaves_no_connection": _STAYS,
    "test_an_async_store_that_is_closed_during_a_call_leaves_no_connection": _STAYS,
    "test_who_was_idle_in_a_transaction_is_told_so": _STAYS,
    "test_prices_read_in_a_transaction_hold_up_no_other_namespace_and_no_append": _SETTINGS,
}
_INDEX = "the test looks for an index by name; partitions have others"
ON_PARTITIONS = {
    "test_no_operation_of_a_request_reads_a_table_from_end_to_end": "the test sets what a table has that has no parts",
    "test_an_invalidation_finds_its_entries_in_an_index": _INDEX,
    "test_ids_are_looked_up_by_their_index_in_a_table_that_was_never_analyzed": _INDEX,
}

_SET_LATER = "what is set of a database holds for new connections, and the pooler keeps those that it has"
_PROCESSES = "each process of an export needs a connection, and the pooler has two"
BEHIND_A_POOLER = {
    "test_several_processes_write_the_same_file": _PROCESSES,
    "test_processes_import_nothing_from_the_current_directory": _PROCESSES,
    "test_all_processes_export_one_moment": _PROCESSES,
    "test_a_store_that_is_closed_during_a_call_leaves_no_connection": "the pooler keeps its connections",
    "test_a_connection_whose_call_was_given_up_is_not_used_again": "the pooler keeps its connections",
    "test_a_second_try_is_counted": "the pooler makes another connection by itself, and there is no second try",
    "test_what_is_computed_is_returned_and_one_warning_says_so": _SET_LATER,
    "test_a_read_returns_what_is_stored_and_extends_nothing": _SET_LATER,
    "test_a_write_still_says_that_it_cannot_be_done": _SET_LATER,
    "test_one_that_waits_for_its_key_keeps_nobody_from_making_room": "three stores, and the pooler has two connections",
}

_NAMED = "the test names the namespace"
_ELSEWHERE = "ids of sessions are unique within one namespace; a fork goes to that of its source"
_JOINS = "the test joins a transaction in one namespace, or calls a store beside it in another one"
_INSIDE = "the test looks into a store, or at what it calls an argument"
_FILES = "the test makes files of one namespace"
_LIMIT_OF_ONE = "a limit of sessions is one of each namespace"
_AGENTS = "what an agent keeps is in one namespace, and not in each user's"
SPREAD = {
    "test_a_session_comes_back_as_it_was_made": _NAMED,
    "test_a_session_is_made_once": _NAMED,
    "test_a_user_is_forgotten_with_a_receipt": _NAMED,
    "test_a_derived_id_is_the_same_everywhere": _NAMED,
    "test_a_store_shows_where_it_is_but_no_password": _NAMED,
    "test_an_append_to_no_session_fails": _NAMED,
    "test_a_write_under_way_at_the_end_of_a_turn_is_not_missed": "the test opens another store, of one namespace",
    "test_a_fork_onto_a_living_session_fails": _ELSEWHERE,
    "test_a_fork_takes_the_place_of_a_session_that_expired": _ELSEWHERE,
    "test_regenerate_as_a_child_records_the_parent": _ELSEWHERE,
    "test_a_circle_that_is_there_already_ends": _ELSEWHERE,
    "test_who_waits_for_a_lock_is_told_that_nothing_was_written": _JOINS,
    "test_agent_state_commits_with_the_applications_own_rows": _JOINS,
    "test_a_connection_without_a_transaction_gets_one": _JOINS,
    "test_what_is_joined_on_sqlite_loses_no_update": _JOINS,
    "test_a_refusal_leaves_the_callers_transaction_alone": _JOINS,
    "test_operations_of_one_transaction_that_are_called_at_once_do_not_mix": _JOINS,
    "test_a_large_session_is_gone_at_once_and_deleted_in_batches": _INSIDE,
    "test_what_is_made_anew_while_a_history_is_trimmed_stays": _INSIDE,
    "test_a_lease_on_what_is_no_session_id_is_refused": _INSIDE,
    "test_what_a_part_belongs_to_is_a_key": _INSIDE,
    "test_what_is_not_a_list_of_sessions_is_refused": _INSIDE,
    "test_a_bad_argument_is_named_and_nothing_is_written": _INSIDE,
    "test_a_sweep_keeps_the_sessions_that_were_active_last": _LIMIT_OF_ONE,
    "test_sweeps_at_once_take_no_more_than_is_too_much": _LIMIT_OF_ONE,
    "test_lists_are_exported_and_imported": _FILES,
    "test_a_file_from_before_lists_is_read": _FILES,
    "test_a_damaged_list_is_refused": _FILES,
    "test_an_id_is_the_same_wherever_it_is_derived": _NAMED,
    "test_the_figures_of_a_namespace": _NAMED,
    "test_the_same_id_with_other_figures_is_a_conflict: session_id": "an id of a call is unique within one namespace",
    "test_an_erased_user_is_taken_out_of_the_records": "a user is erased from the namespaces it is in, one by one",
    "test_recorded_calls_without_a_cost_can_be_priced_later": "costs are computed in one namespace after the other",
    "test_each_session_sees_the_state_of_its_user_and_of_its_agent": _AGENTS,
    "test_the_sweep_deletes_expired_keys": _AGENTS,
    "test_keys_that_an_agent_keeps_for_a_user_are_erased_with_the_user": _AGENTS,
    "test_a_key_stays_its_users_until_another_one_is_named": _AGENTS,
}
# What can be said of a tenant; the other files are of one namespace, its limits, its connections or its statements.
SPREAD_FILES = frozenset(
    f"test_{name}.py"
    for name in (
        *("context", "damaged", "deleting_many", "descent", "editing", "erasure", "finding_sessions", "follow"),
        *("held_reads", "idempotency", "leases", "lists", "locate", "parts", "prices", "prices_in_transactions"),
        *("read_only", "reading", "scenarios", "shared_prices", "state_keys", "state_scopes", "statistics"),
        *("sweep", "sweep_batches", "sweeper", "transactions", "usage_records", "wide_trees"),
        *("sessions", "history", "fork", "state", "pages", "turns", "expiry", "iterate", "windows"),
        *("shared_state", "values", "json", "conversations", "sdk_objects", "new_sessions"),
    )
)


def impossible(item: pytest.Item, *, citus: bool, partitioned: bool, spread: bool, pooled: bool) -> str | None:
    """Why a test cannot be run in this world; None if it can."""
    known = SPREAD if spread else {}
    if item.get_closest_marker("postgresql"):
        worlds = ((citus, ON_CITUS), (partitioned, ON_PARTITIONS), (pooled, BEHIND_A_POOLER))
        known = {**known, **{name: reason for here, reasons in worlds if here for name, reason in reasons.items()}}
    return next(_reasons(item, known), None)


def _reasons(item: pytest.Item, known: Mapping[str, str]) -> Iterator[str]:
    for key, reason in known.items():
        name, _, parameter = key.partition(": ")
        if name in (getattr(item, "originalname", item.name), item.path.name) and parameter in item.name:
            yield reason
