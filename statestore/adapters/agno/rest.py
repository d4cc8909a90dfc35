"""The parts of agno's databases that are not here, so that each says so when it is asked for."""

from typing import Any


def _missing(name: str) -> Any:
    def method(self: object, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has sessions and runs only, and no {name}")

    return method


class NotHere:
    """What `BaseDb` and `AsyncBaseDb` ask of a database beside sessions and runs."""

    get_latest_schema_version = _missing("get_latest_schema_version")
    upsert_schema_version = _missing("upsert_schema_version")
    clear_memories = _missing("clear_memories")
    delete_user_memory = _missing("delete_user_memory")
    delete_user_memories = _missing("delete_user_memories")
    get_all_memory_topics = _missing("get_all_memory_topics")
    get_user_memory = _missing("get_user_memory")
    get_user_memories = _missing("get_user_memories")
    get_user_memory_stats = _missing("get_user_memory_stats")
    upsert_user_memory = _missing("upsert_user_memory")
    upsert_memories = _missing("upsert_memories")
    get_metrics = _missing("get_metrics")
    calculate_metrics = _missing("calculate_metrics")
    delete_knowledge_content = _missing("delete_knowledge_content")
    get_knowledge_content = _missing("get_knowledge_content")
    get_knowledge_contents = _missing("get_knowledge_contents")
    upsert_knowledge_content = _missing("upsert_knowledge_content")
    create_eval_run = _missing("create_eval_run")
    delete_eval_runs = _missing("delete_eval_runs")
    get_eval_run = _missing("get_eval_run")
    get_eval_runs = _missing("get_eval_runs")
    rename_eval_run = _missing("rename_eval_run")
    upsert_trace = _missing("upsert_trace")
    get_trace = _missing("get_trace")
    get_traces = _missing("get_traces")
    get_trace_stats = _missing("get_trace_stats")
    create_span = _missing("create_span")
    create_spans = _missing("create_spans")
    get_span = _missing("get_span")
    get_spans = _missing("get_spans")
    get_learning = _missing("get_learning")
    upsert_learning = _missing("upsert_learning")
    delete_learning = _missing("delete_learning")
    get_learnings = _missing("get_learnings")
