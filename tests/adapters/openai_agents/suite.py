"""The SDK's tests of its sessions, with ours in the place of those on SQLite and SQLAlchemy.

A path of a file is a database of ours, the same for all sessions of a test that name it; `:memory:` is one of its own.
"""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import agents
import agents.extensions.memory
import agents.extensions.memory.advanced_sqlite_session
import agents.extensions.memory.async_sqlite_session
import agents.extensions.memory.encrypt_session
import agents.extensions.memory.sqlalchemy_session
import agents.memory
import agents.memory.sqlite_session
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from statestore import LazyStore
from statestore.adapters.openai_agents import AdvancedStatestoreSession, StatestoreSession
from tests.adapters.databases import Databases

PATHS = (
    "tests/memory/test_session.py",
    "tests/memory/test_session_limit.py",
    "tests/memory/test_compaction_suffix.py",
    "tests/memory/test_compaction_model_visibility.py",
    "tests/memory/test_openai_responses_compaction_session.py",
    "tests/memory/test_sqlalchemy_compaction.py",
    "tests/extensions/memory/test_async_sqlite_session.py",
    "tests/extensions/memory/test_sqlalchemy_session.py",
    "tests/extensions/memory/test_advanced_sqlite_session.py",
    "tests/extensions/memory/test_encrypt_session.py",
    "tests/test_hitl_session_scenario.py",
)
OPTIONS = ("-q", "-p", "no:cacheprovider", "--timeout=60", "--tb=short")
# What is left out, by reason.
_LEFT_OUT = {
    "looks into its own tables, or changes them": (
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_clear_session_resets_current_branch_to_main",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_add_items_rolls_back_partial_structure_metadata_write",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_advanced_session_respects_custom_table_names",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_branch_reservations_migrate_existing_populated_branches",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_clear_session_removes_structure_and_usage_metadata",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_clear_session_rolls_back_on_failure_after_earlier_delete",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_concurrent_add_items_preserves_message_structure_for_file_db",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_concurrent_structure_table_claims_leave_one_coherent_owner",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_default_read_does_not_initialize_clear_generation_table",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_delete_branch_keeps_messages_still_referenced_by_another_branch",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_delete_branch_removes_branch_only_messages",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_get_items_limit_skips_corrupt_newest_rows",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_identifier_resolution_leaves_connection_authorized",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_legacy_branch_ids_are_backfilled_before_destructive_operations",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_no_create_session_rejects_a_database_without_an_owner",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_no_create_session_rejects_owner_metadata_without_base_tables",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_orphan_cleanup_uses_set_based_delete_for_many_messages",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_pop_item_deletes_shared_copied_message_only_when_unreferenced",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_pop_item_removes_its_structure_row",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_pop_item_removes_turn_usage_only_when_turn_emptied",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_pop_item_respects_current_branch_and_keeps_shared_messages",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_pop_item_rolls_back_on_failure_after_earlier_delete",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_store_run_usage_skips_when_current_branch_has_no_turn",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_accept_equivalent_child_column_casing",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_accept_equivalent_identifier_casing",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_accept_quoted_custom_session_table",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_reject_a_second_base_table_pair",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_reject_an_ownerless_layout",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_reject_changed_messages_with_shared_sessions",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_reject_changed_sessions_with_shared_messages",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_reject_distinct_non_ascii_identifiers",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_tables_reject_malformed_owner_layouts",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_tool_usage_reads_legacy_shell_and_patch_names",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_get_items_limit_skips_corrupt_newest_rows",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_get_items_same_timestamp_consistent_order",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_pop_item_returns_none_after_dropping_only_corrupt_rows",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_pop_item_same_timestamp_returns_latest",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_pop_item_skips_corrupt_most_recent",
        "tests/extensions/memory/test_async_sqlite_session.py::test_failed_clear_session_rolls_back",
        "tests/extensions/memory/test_async_sqlite_session.py::test_failed_pop_item_releases_write_lock",
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_pop_rechecks_authentication_after_expired_tail",
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_pop_skips_plaintext_with_inherited_sqlite_behavior",
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_pop_wrong_key_preserves_recoverable_history",
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_pop_wrong_key_preserves_row_identity",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_add_items_cancelled_waiter_does_not_strand_table_init_lock",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_create_tables_false_does_not_allocate_shared_init_lock",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_get_items_limit_skips_corrupt_newest_rows",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_get_items_orders_by_id_for_ties",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_get_items_same_timestamp_consistent_order",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_mutation_cancellation_waits_for_transaction_exit",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_pop_item_retries_returning_claim_lost_to_concurrent_delete",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_pop_item_returns_none_after_dropping_only_corrupt_rows",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_pop_item_same_timestamp_returns_latest",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_pop_item_skips_corrupt_most_recent",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_pop_item_supports_unknown_delete_rowcount",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_sqlalchemy_session_can_store_non_ascii_without_escaping",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_sqlalchemy_session_defaults_to_escaped_non_ascii_storage",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_sqlite_configuration_registry_does_not_grow_unbounded",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_sqlite_configuration_registry_releases_collected_engines",
        "tests/extensions/memory/test_sqlalchemy_session.py::test_sqlite_fallback_reserves_writer_before_tail_claim",
        "tests/memory/test_compaction_suffix.py::test_cancelled_suffix_transaction_settles_before_newer_append",
        "tests/memory/test_compaction_suffix.py::test_failed_encrypted_suffix_transaction_preserves_original_tokens",
        "tests/memory/test_compaction_suffix.py::test_suffix_transaction_rolls_back_failed_insert",
        "tests/memory/test_session.py::test_sqlite_session_failed_clear_session_rolls_back",
        "tests/memory/test_session.py::test_sqlite_session_failed_pop_item_releases_write_lock",
        "tests/memory/test_session.py::test_sqlite_session_get_items_limit_skips_corrupt_newest_rows",
        "tests/memory/test_session.py::test_sqlite_session_get_items_session_settings_limit_skips_corrupt_rows",
        "tests/memory/test_session.py::test_sqlite_session_pop_item_returns_none_after_dropping_only_corrupt_rows",
        "tests/memory/test_session.py::test_sqlite_session_pop_item_skips_corrupt_most_recent",
        "tests/memory/test_sqlalchemy_compaction.py::test_cancelled_replacement_settles_before_other_instance_append",
        "tests/memory/test_sqlalchemy_compaction.py::test_encrypted_prefix_cleanup_is_atomic",
        "tests/memory/test_sqlalchemy_compaction.py::test_failed_replacement_preserves_history_during_other_instance_access",
        "tests/memory/test_sqlalchemy_compaction.py::test_parent_constraint_rejection_propagates",
        "tests/memory/test_sqlalchemy_compaction.py::test_replacement_uses_timestamp_order_not_id_order",
    ),
    "takes its connections and its transactions in hand": (
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_add_items_rollback_failure_invalidates_connection",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_auxiliary_mutation_cancellation_waits_for_commit",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_failed_branch_reservation_rolls_back_and_allows_retry",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_failed_usage_write_rolls_back_cached_connection",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_legacy_destructive_noops_leave_database_unlocked",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_post_commit_cancellation_propagates_after_known_mutation_outcome",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_structure_initialization_failure_invalidates_connection",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_switch_validation_cancellation_waits_for_generation_commit",
        "tests/extensions/memory/test_async_sqlite_session.py::test_cancelled_add_items_rolls_back_write_transaction",
        "tests/extensions/memory/test_async_sqlite_session.py::test_cancelled_connect_closes_eventually_acquired_connection",
        "tests/extensions/memory/test_async_sqlite_session.py::test_cancelled_initialization_finishes_candidate_close",
        "tests/extensions/memory/test_async_sqlite_session.py::test_cancelled_wal_retry_closes_startup_connection",
        "tests/extensions/memory/test_async_sqlite_session.py::test_close_retries_connection_quarantined_after_rollback_failure",
        "tests/extensions/memory/test_async_sqlite_session.py::test_close_retries_quarantined_failed_initialization_candidate",
        "tests/extensions/memory/test_async_sqlite_session.py::test_failed_initialization_closes_candidate_connection",
        "tests/extensions/memory/test_async_sqlite_session.py::test_initialization_does_not_retry_unrecoverable_wal_errors",
        "tests/extensions/memory/test_async_sqlite_session.py::test_initialization_failure_then_cancellation_during_candidate_close",
        "tests/extensions/memory/test_async_sqlite_session.py::test_initialization_retries_transient_wal_lock",
        "tests/extensions/memory/test_async_sqlite_session.py::test_operation_failure_then_cancellation_during_rollback",
        "tests/extensions/memory/test_async_sqlite_session.py::test_post_commit_cancellation_propagates_after_known_mutation_outcome",
        "tests/extensions/memory/test_async_sqlite_session.py::test_rollback_failure_closes_and_evicts_connection",
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_pop_authentication_is_atomic_with_concurrent_mutations",
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_pop_cancellation_waits_for_authentication_rollback",
        "tests/memory/test_openai_responses_compaction_session.py::TestOpenAIResponsesCompactionSession::test_settled_clear_failure_invalidates_response_chain",
        "tests/memory/test_openai_responses_compaction_session.py::TestOpenAIResponsesCompactionSession::test_settled_pop_failure_invalidates_response_chain",
        "tests/memory/test_session.py::test_sqlite_session_close_closes_worker_thread_connections",
        "tests/memory/test_session.py::test_sqlite_session_close_retries_quarantined_connection",
        "tests/memory/test_session.py::test_sqlite_session_closes_retired_connections_before_the_next_allocation",
        "tests/memory/test_session.py::test_sqlite_session_failed_add_items_releases_write_lock",
        "tests/memory/test_session.py::test_sqlite_session_file_lock_is_shared_across_instances",
        "tests/memory/test_session.py::test_sqlite_session_keeps_connections_of_live_worker_threads",
        "tests/memory/test_session.py::test_sqlite_session_post_commit_cancellation_propagates_after_known_outcome",
        "tests/memory/test_session.py::test_sqlite_session_reaps_connections_from_exited_worker_threads",
        "tests/memory/test_session.py::test_sqlite_session_rollback_failure_evicts_connection",
    ),
    "stops its worker threads at functions that it has inside": (
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_add_captures_coherent_branch_after_clear_publication",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_add_items_can_retry_after_structure_metadata_failure",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_add_items_failure_preserves_existing_history",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_add_items_rolls_back_messages_when_structure_metadata_fails",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_clear_before_branch_transaction_prevents_stale_reservation",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_pop_item_uses_branch_snapshot_when_branch_switches_concurrently",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_queued_add_keeps_selected_branch",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_queued_append_cannot_resurrect_deleted_branch",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_queued_turn_mutation_releases_later_usage_capture",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_stale_create_branch_after_clear_does_not_repoint",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_stale_store_run_usage_not_recorded_against_reused_turn_number",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_stale_store_run_usage_skipped_when_turn_removed_by_pop",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_stale_switch_after_clear_does_not_repoint_to_deleted_branch",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_store_run_usage_cancellation_during_capture_waits_for_commit",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_store_run_usage_keeps_target_while_capture_is_waiting",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_store_run_usage_keeps_turn_when_history_changes_during_capture",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_store_run_usage_survives_unrelated_branch_deletion",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_store_run_usage_waits_for_database_lock_off_event_loop",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_turn_ordering_survives_reuse_on_another_event_loop",
    ),
    "a session that was closed cannot be used again; ours opens its store again": (
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_advanced_sqlite_session_closed_rejects_empty_add_items",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_close_before_use_is_terminal",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_close_is_idempotent",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_closed_operations_raise_runtime_error",
        "tests/extensions/memory/test_async_sqlite_session.py::test_async_sqlite_session_closed_rejects_empty_add_items",
        "tests/extensions/memory/test_async_sqlite_session.py::test_cancelled_close_finishes_cleanup_and_propagates_cancellation",
        "tests/memory/test_session.py::test_sqlite_session_closed_rejects_empty_add_items",
    ),
    "reads its log": (
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_create_branch_logging_respects_model_data_policy",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_usage_tracking_failure_identity_follows_model_data_policy",
    ),
    "how it restores a history that was not replaced in one transaction; ours is": (
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_compaction_restores_original_tokens_before_concurrent_append",
        "tests/memory/test_openai_responses_compaction_session.py::TestOpenAIResponsesCompactionSession::test_cancel_restore_waits_for_mutation_lock_before_newer_writes",
        "tests/memory/test_openai_responses_compaction_session.py::TestOpenAIResponsesCompactionSession::test_exception_restore_drains_when_compaction_is_cancelled",
    ),
    "a negative limit means all items to SQLite alone; ours refuses it": (
        "tests/extensions/memory/test_encrypt_session.py::test_encrypted_session_scan_budget_rejects_negative_limit_before_read",
    ),
    "a branch without items does not exist there; here it does, and can be deleted": (
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_failed_force_delete_keeps_current_branch",
    ),
    "its class in processes that have no plugin; ours: test_branches.py and test_session.py": (
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_branch_allocation_is_serialized_across_processes",
        "tests/extensions/memory/test_advanced_sqlite_session.py::test_pop_item_claim_is_unique_across_processes",
    ),
    "an item that is not JSON raises TypeError there, and InvalidValueError here": (
        "tests/extensions/memory/test_async_sqlite_session.py::test_failed_add_items_rolls_back_and_reuses_connection",
    ),
}
LEFT_OUT = {test: reason for reason, tests in _LEFT_OUT.items() for test in tests}

_databases = Databases()
_stores: dict[Any, LazyStore] = {}
_numbers = itertools.count()


def store_at(path: Any) -> LazyStore:
    key = path if isinstance(path, AsyncEngine) else next(_numbers) if str(path) == ":memory:" else str(path)
    if key not in _stores:
        _stores[key] = LazyStore(_databases.fresh())
    return _stores[key]


class _Closed:
    """What the SDK's tests ask of a session besides the protocol."""

    closed = False

    def close(self) -> None:
        """Closed with all others at the end of the test."""


class Simple(_Closed, StatestoreSession):
    def __init__(self, session_id: str, db_path: Any = ":memory:", *_: Any, session_settings: Any = None) -> None:
        super().__init__(session_id, store_at(db_path), session_settings=session_settings)


class Advanced(_Closed, AdvancedStatestoreSession):
    def __init__(self, *, session_id: str, db_path: Any = ":memory:", session_settings: Any = None, **_: Any) -> None:
        super().__init__(session_id, store_at(db_path), session_settings=session_settings)

    @property
    def _current_branch_id(self) -> str:
        return self.current_branch


class Async(StatestoreSession):
    def __init__(self, session_id: str, db_path: Any = ":memory:", *_: Any, session_settings: Any = None) -> None:
        super().__init__(session_id, store_at(db_path), session_settings=session_settings)

    async def close(self) -> None:
        """Closed with all others at the end of the test."""


class OfEngine(StatestoreSession):
    """On a database of ours for each of theirs: the engine is only looked at."""

    def __init__(self, session_id: str, *, engine: AsyncEngine, session_settings: Any = None, **_: Any) -> None:
        path = engine.url.database
        super().__init__(
            session_id, store_at(engine if path == ":memory:" else path), session_settings=session_settings
        )
        self._engine = engine

    @classmethod
    def from_url(cls, session_id: str, *, url: str, engine_kwargs: Any = None, **rest: Any) -> "OfEngine":
        return cls(session_id, engine=create_async_engine(url, **(engine_kwargs or {})), **rest)

    @property
    def engine(self) -> AsyncEngine:
        return self._engine


for module, name, ours in (
    (agents, "SQLiteSession", Simple),
    (agents.memory, "SQLiteSession", Simple),
    (agents.memory.sqlite_session, "SQLiteSession", Simple),
    (agents.extensions.memory, "AsyncSQLiteSession", Async),
    (agents.extensions.memory.async_sqlite_session, "AsyncSQLiteSession", Async),
    (agents.extensions.memory, "SQLAlchemySession", OfEngine),
    (agents.extensions.memory.sqlalchemy_session, "SQLAlchemySession", OfEngine),
    (agents.extensions.memory, "AdvancedSQLiteSession", Advanced),
    (agents.extensions.memory.advanced_sqlite_session, "AdvancedSQLiteSession", Advanced),
):
    setattr(module, name, ours)


@pytest_asyncio.fixture(autouse=True)
async def _close_stores() -> AsyncIterator[None]:
    yield
    while _stores:
        _, store = _stores.popitem()
        await store.aclose()


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
