-- The views that revision 0005 adds or changes, on PostgreSQL. They are public, as those of 0003: names, columns and meaning
-- are the same on both databases. What each table and column of the schema means is said in 0005_comments.toml, for
-- both; on PostgreSQL `\d+` shows it.

-- usage_lines: an entry that is there, a line of the ledger, or a recorded call, which is no entry: of usage_records. What
-- all the other views sum, and what to sum for a question that they do not answer. `at` is the time of the entry or the
-- call, or the beginning of the ledger's quarter of an hour, and a condition on namespace and `at` uses an index.
-- `latency_ms` is the duration of a single entry or call, and NULL in the ledger. A recorded call counts as no entry and no
-- turn, has no content, and may have no session.
CREATE OR REPLACE VIEW {s}usage_lines WITH (security_invoker = true) AS
    SELECT h.namespace,
           h.created_at AS at,
           CAST(h.created_at AT TIME ZONE 'UTC' AS date) AS day,
           h.session_id,
           s.user_id,
           coalesce(h.agent_name, s.agent_name) AS agent_name,
           h.provider_name,
           coalesce(h.response_model, h.request_model) AS model,
           h.tool_name,
           CAST(1 AS bigint) AS entries,
           CASE WHEN h.role = 'user'
                THEN CAST(1 AS bigint) ELSE 0 END AS turns,
           CASE WHEN h.input_tokens IS NOT NULL OR h.output_tokens IS NOT NULL
                THEN CAST(1 AS bigint) ELSE 0 END AS model_calls,
           CASE WHEN h.tool_name IS NOT NULL AND (h.role IS NULL OR h.role <> 'tool' OR h.tool_call_id IS NULL)
                THEN CAST(1 AS bigint) ELSE 0 END AS tool_calls,
           CASE WHEN h.error_type IS NOT NULL
                THEN CAST(1 AS bigint) ELSE 0 END AS errors,
           coalesce(h.input_tokens, 0) AS input_tokens,
           coalesce(h.output_tokens, 0) AS output_tokens,
           coalesce(h.cache_read_input_tokens, 0) AS cache_read_input_tokens,
           coalesce(h.cache_write_input_tokens, 0) AS cache_write_input_tokens,
           coalesce(h.reasoning_output_tokens, 0) AS reasoning_output_tokens,
           h.cost_usd,
           CASE WHEN h.cost_usd IS NULL AND (h.input_tokens IS NOT NULL OR h.output_tokens IS NOT NULL)
                THEN CAST(1 AS bigint) ELSE 0 END AS unpriced_calls,
           coalesce(h.duration_ms, 0) AS duration_ms,
           h.content_bytes,
           h.duration_ms AS latency_ms
      FROM {s}history_entries AS h
      JOIN {s}sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
     WHERE h.usage_folded = 0
     UNION ALL
    SELECT l.namespace, l.bucket_at, CAST(l.bucket_at AT TIME ZONE 'UTC' AS date), l.session_id, l.user_id, l.agent_name, l.provider_name,
           l.model, l.tool_name, l.entries, l.turns, l.model_calls, l.tool_calls, l.errors, l.input_tokens, l.output_tokens,
           l.cache_read_input_tokens, l.cache_write_input_tokens, l.reasoning_output_tokens, l.cost_usd, l.unpriced_calls,
           l.duration_ms, l.content_bytes, NULL::double precision
      FROM {s}usage_ledger AS l
     UNION ALL
    SELECT r.namespace, r.created_at, CAST(r.created_at AT TIME ZONE 'UTC' AS date), r.session_id, r.user_id, r.agent_name, r.provider_name, r.model, r.tool_name,
           0, 0,
           CASE WHEN r.input_tokens IS NOT NULL OR r.output_tokens IS NOT NULL THEN CAST(1 AS bigint) ELSE 0 END,
           CASE WHEN r.tool_name IS NOT NULL THEN CAST(1 AS bigint) ELSE 0 END,
           CASE WHEN r.error_type IS NOT NULL THEN CAST(1 AS bigint) ELSE 0 END,
           coalesce(r.input_tokens, 0), coalesce(r.output_tokens, 0), coalesce(r.cache_read_input_tokens, 0),
           coalesce(r.cache_write_input_tokens, 0), coalesce(r.reasoning_output_tokens, 0), r.cost_usd,
           CASE WHEN r.cost_usd IS NULL AND (r.input_tokens IS NOT NULL OR r.output_tokens IS NOT NULL) THEN CAST(1 AS bigint) ELSE 0 END,
           coalesce(r.duration_ms, 0), 0, r.duration_ms
      FROM {s}usage_records AS r;

-- usage_by_session: as in 0003; session_id is NULL, and `sessions` 0, for recorded calls that name no session.
CREATE OR REPLACE VIEW {s}usage_by_session WITH (security_invoker = true) AS
    SELECT namespace,
           session_id,
           user_id,
           min(day) AS first_day,
           max(day) AS last_day,
           count(DISTINCT session_id) AS sessions,
           CAST(sum(entries) AS bigint) AS entries,
           CAST(sum(turns) AS bigint) AS turns,
           CAST(sum(model_calls) AS bigint) AS model_calls,
           CAST(sum(tool_calls) AS bigint) AS tool_calls,
           CAST(sum(errors) AS bigint) AS errors,
           CAST(sum(input_tokens) AS bigint) AS input_tokens,
           CAST(sum(output_tokens) AS bigint) AS output_tokens,
           CAST(sum(cache_read_input_tokens) AS bigint) AS cache_read_input_tokens,
           CAST(sum(cache_write_input_tokens) AS bigint) AS cache_write_input_tokens,
           CAST(sum(reasoning_output_tokens) AS bigint) AS reasoning_output_tokens,
           sum(cost_usd) AS cost_usd,
           CAST(sum(unpriced_calls) AS bigint) AS unpriced_calls,
           CAST(round(CAST(sum(duration_ms) AS numeric), 3) AS double precision) AS duration_ms,
           CAST(sum(content_bytes) AS bigint) AS content_bytes,
           count(latency_ms) AS timed_entries,
           CAST(round(CAST(percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS numeric), 6) AS double precision)
               AS latency_p50_ms,
           CAST(round(CAST(percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS numeric), 6) AS double precision)
               AS latency_p95_ms
      FROM {s}usage_lines
     GROUP BY namespace, session_id, user_id;

-- storage_usage: what is stored, by table, namespace and user.
--   table_name   one of the tables
--   user_id      whose the rows are, or the session that they belong to; NULL for none, and for the cache
--   row_count    rows
--   bytes        of what callers put in: contents, values, texts and metadata, without what the database adds
CREATE OR REPLACE VIEW {s}storage_usage WITH (security_invoker = true) AS
    SELECT namespace, CAST('sessions' AS varchar) AS table_name, user_id, count(*) AS row_count,
           CAST(sum(coalesce(octet_length(CAST(title AS text)), 0) + coalesce(octet_length(CAST(instructions AS text)), 0) + coalesce(octet_length(CAST(metadata AS text)), 0)) AS bigint) AS bytes
      FROM {s}sessions GROUP BY namespace, user_id
     UNION ALL
    SELECT s.namespace, 'session_segments', s.user_id, count(*), 0
      FROM {s}session_segments AS g JOIN {s}sessions AS s ON s.namespace = g.namespace AND s.session_id = g.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'history_entries', s.user_id, count(*), CAST(sum(h.content_bytes + coalesce(octet_length(CAST(h.metadata AS text)), 0)) AS bigint)
      FROM {s}history_entries AS h JOIN {s}sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'summaries', s.user_id, count(*), CAST(sum(coalesce(octet_length(CAST(m.content AS text)), 0)) AS bigint)
      FROM {s}summaries AS m JOIN {s}sessions AS s ON s.namespace = m.namespace AND s.session_id = m.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'state_entries', s.user_id, count(*), CAST(sum(coalesce(octet_length(CAST(e.value AS text)), 0)) AS bigint)
      FROM {s}state_entries AS e JOIN {s}sessions AS s ON s.namespace = e.namespace AND s.session_id = e.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT namespace, 'cache_entries', NULL, count(*), CAST(sum(size_bytes + coalesce(octet_length(CAST(request AS text)), 0) + coalesce(octet_length(CAST(metadata AS text)), 0)) AS bigint)
      FROM {s}cache_entries GROUP BY namespace
     UNION ALL
    SELECT namespace, 'usage_ledger', user_id, count(*), 0 FROM {s}usage_ledger GROUP BY namespace, user_id
     UNION ALL
    SELECT namespace, 'usage_records', user_id, count(*), 0 FROM {s}usage_records GROUP BY namespace, user_id
     UNION ALL
    SELECT namespace, 'shared_state', CASE WHEN scope = 'user' THEN owner_id END, count(*), CAST(sum(coalesce(octet_length(CAST(value AS text)), 0)) AS bigint)
      FROM {s}shared_state GROUP BY namespace, CASE WHEN scope = 'user' THEN owner_id END
     UNION ALL
    SELECT s.namespace, 'session_lists', s.user_id, count(*), 0
      FROM {s}session_lists AS l JOIN {s}sessions AS s ON s.namespace = l.namespace AND s.session_id = l.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'session_list_items', s.user_id, count(*), CAST(sum(coalesce(octet_length(CAST(i.value AS text)), 0)) AS bigint)
      FROM {s}session_list_items AS i JOIN {s}sessions AS s ON s.namespace = i.namespace AND s.session_id = i.session_id
     GROUP BY s.namespace, s.user_id;

-- expiry_backlog: what is due to be deleted and was not swept yet. Nobody can read it any more, but for idle sessions.
--   kind              expired_sessions, idle_sessions, expired_state (of sessions, users and agents) or expired_cache
--   due               how many
--   oldest_due_at     since when the oldest is
--   overdue_seconds   how long that is by now
CREATE OR REPLACE VIEW {s}expiry_backlog WITH (security_invoker = true) AS
    SELECT namespace, CAST('expired_sessions' AS varchar) AS kind, count(*) AS due, min(expires_at) AS oldest_due_at,
           CAST(extract(epoch FROM now() - min(expires_at)) AS double precision) AS overdue_seconds
      FROM {s}sessions WHERE expires_at <= now() GROUP BY namespace
     UNION ALL
    SELECT s.namespace, 'idle_sessions', count(*), min(s.last_activity_at + p.value * interval '1 microsecond'),
           CAST(extract(epoch FROM now() - min(s.last_activity_at + p.value * interval '1 microsecond')) AS double precision)
      FROM {s}store_settings AS p JOIN {s}sessions AS s ON s.namespace = p.namespace
     WHERE p.name = 'max_idle' AND s.active_hour <= now() - p.value * interval '1 microsecond'
       AND s.last_activity_at <= now() - p.value * interval '1 microsecond' AND (s.expires_at IS NULL OR s.expires_at > now())
       AND (s.lease_until IS NULL OR s.lease_until <= now())
     GROUP BY s.namespace
     UNION ALL
    SELECT namespace, 'expired_state', count(*), min(expires_at), CAST(extract(epoch FROM now() - min(expires_at)) AS double precision)
      FROM (SELECT namespace, expires_at FROM {s}state_entries WHERE expires_at <= now()
             UNION ALL
            SELECT namespace, expires_at FROM {s}shared_state WHERE expires_at <= now()) AS keys
     GROUP BY namespace
     UNION ALL
    SELECT namespace, 'expired_cache', count(*), min(keep_until), CAST(extract(epoch FROM now() - min(keep_until)) AS double precision)
      FROM {s}cache_entries WHERE keep_until <= now() GROUP BY namespace;

-- session_history: what each living session sees, an entry to a row: its own entries, and those that it shares with the
-- session that it was forked from. To read one session in order, ask for its namespace and session_id and sort by seq: both
-- find it by the primary key. To sum what was used, take usage_lines: an entry that forks share stands here once for each.
--   session_id         the session that sees the entry
--   user_id            the session's user
--   seq                the position in the session, from 1
--   owner_session_id   the session that has the row; another one than session_id where a fork shares it
--   agent_name         the agent that the entry names; see sessions for the session's
--   the others         as in history_entries
CREATE OR REPLACE VIEW {s}session_history WITH (security_invoker = true) AS
    SELECT s.namespace, s.session_id, s.user_id,
           h.seq, h.turn, h.entry_id, h.session_id AS owner_session_id, h.role, h.agent_name, h.content,
           h.metadata, h.provider_name, h.request_model, h.response_model, h.input_tokens, h.output_tokens,
           h.cache_read_input_tokens, h.cache_write_input_tokens, h.reasoning_output_tokens, h.cost_usd,
           h.tool_name, h.tool_call_id, h.duration_ms, h.finish_reason, h.error_type, h.content_bytes,
           h.created_at
      FROM {s}sessions AS s
      JOIN {s}history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
       AND h.seq >= s.first_seq AND h.seq < s.next_seq
     WHERE (s.expires_at IS NULL OR s.expires_at > now())
     UNION ALL
    SELECT s.namespace, s.session_id, s.user_id,
           h.seq, h.turn, h.entry_id, h.session_id AS owner_session_id, h.role, h.agent_name, h.content,
           h.metadata, h.provider_name, h.request_model, h.response_model, h.input_tokens, h.output_tokens,
           h.cache_read_input_tokens, h.cache_write_input_tokens, h.reasoning_output_tokens, h.cost_usd,
           h.tool_name, h.tool_call_id, h.duration_ms, h.finish_reason, h.error_type, h.content_bytes,
           h.created_at
      FROM {s}sessions AS s
      JOIN {s}session_segments AS g ON g.namespace = s.namespace AND g.session_id = s.session_id
      JOIN {s}history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
       AND h.seq >= g.from_seq AND h.seq <= g.to_seq
     WHERE (s.expires_at IS NULL OR s.expires_at > now());

-- session_state: what living sessions remember by key, without what has expired.
--   user_id, agent_name   of the session
--   value                 JSON
--   version               grows with each write of the key
--   created_at            when the key was first written; NULL if that was before revision 0005
--   expires_at            NULL: as long as the session
CREATE OR REPLACE VIEW {s}session_state WITH (security_invoker = true) AS
    SELECT s.namespace, s.session_id, s.user_id, s.agent_name, e.key, e.value, e.version, e.created_at, e.updated_at,
           e.expires_at
      FROM {s}sessions AS s
      JOIN {s}state_entries AS e ON e.namespace = s.namespace AND e.session_id = s.session_id
     WHERE (s.expires_at IS NULL OR s.expires_at > now())
       AND (e.expires_at IS NULL OR e.expires_at > now());
