-- The report views, on SQLite. They are public: names, columns and meaning are the same on both databases, and numbers
-- are equal to the last digit.
--
-- Usage is what entries report, counted once: under the session that appended them, whatever forks see them. It comes
-- from two places, from the entries that are there, and from usage_ledger, where what is deleted leaves its sums. So a
-- row for a day that has passed is the same before and after a deletion, but for the latencies, which need the entries.
--
-- Whose an entry is: its session's user, and the agent that it names itself, else its session's. Days are UTC days;
-- `store.usage` and `statestore report` count in any time zone.
--
-- A cost is a float here. It is summed as whole dollars and whole ten-billionths of one, since a sum of floats would be
-- off in the last digits, and differently each time.

-- usage_lines: an entry that is there, or a line of the ledger. What all the other views sum, and what to sum for a
-- question that they do not answer. `at` is the entry's time, or the beginning of the ledger's quarter of an hour, and a
-- condition on namespace and `at` uses an index. `latency_ms` is the duration of a single entry, and NULL in the ledger.
CREATE VIEW {s}usage_lines AS
    SELECT h.namespace,
           h.created_at AS at,
           substr(h.created_at, 1, 10) AS day,
           h.session_id,
           s.user_id,
           coalesce(h.agent_name, s.agent_name) AS agent_name,
           h.provider_name,
           coalesce(h.response_model, h.request_model) AS model,
           h.tool_name,
           1 AS entries,
           CASE WHEN h.role = 'user'
                THEN 1 ELSE 0 END AS turns,
           CASE WHEN h.input_tokens IS NOT NULL OR h.output_tokens IS NOT NULL
                THEN 1 ELSE 0 END AS model_calls,
           CASE WHEN h.tool_name IS NOT NULL AND (h.role IS NULL OR h.role <> 'tool' OR h.tool_call_id IS NULL)
                THEN 1 ELSE 0 END AS tool_calls,
           CASE WHEN h.error_type IS NOT NULL
                THEN 1 ELSE 0 END AS errors,
           coalesce(h.input_tokens, 0) AS input_tokens,
           coalesce(h.output_tokens, 0) AS output_tokens,
           coalesce(h.cache_read_input_tokens, 0) AS cache_read_input_tokens,
           coalesce(h.cache_write_input_tokens, 0) AS cache_write_input_tokens,
           coalesce(h.reasoning_output_tokens, 0) AS reasoning_output_tokens,
           h.cost_usd,
           CASE WHEN h.cost_usd IS NULL AND (h.input_tokens IS NOT NULL OR h.output_tokens IS NOT NULL)
                THEN 1 ELSE 0 END AS unpriced_calls,
           coalesce(h.duration_ms, 0) AS duration_ms,
           h.content_bytes,
           h.duration_ms AS latency_ms
      FROM {s}history_entries AS h
      JOIN {s}sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
     WHERE h.usage_folded = 0
     UNION ALL
    SELECT l.namespace, l.bucket_at, substr(l.bucket_at, 1, 10), l.session_id, l.user_id, l.agent_name, l.provider_name,
           l.model, l.tool_name, l.entries, l.turns, l.model_calls, l.tool_calls, l.errors, l.input_tokens, l.output_tokens,
           l.cache_read_input_tokens, l.cache_write_input_tokens, l.reasoning_output_tokens, l.cost_usd, l.unpriced_calls,
           l.duration_ms, l.content_bytes, NULL
      FROM {s}usage_ledger AS l;

-- usage_by_day: a row for each namespace and day.
--   sessions                   how many sessions have entries in it
--   entries                    history entries
--   turns                      entries of role `user`: each starts a turn
--   model_calls                entries with tokens
--   tool_calls                 entries that name a tool, without the results that answer another entry's call
--   errors                     entries with an error_type
--   input_tokens               cached ones included
--   output_tokens              reasoning included
--   cache_read_input_tokens    of the input, what the provider had in its prompt cache
--   cache_write_input_tokens   of the input, what it put there
--   reasoning_output_tokens    of the output, what was thought and not said
--   cost_usd                   US dollars, as far as known; NULL where nothing is
--   unpriced_calls             model calls whose cost is not known, and so not in cost_usd
--   duration_ms                all durations together, in milliseconds
--   content_bytes              what was said, as JSON in UTF-8
--   timed_entries              entries still there that have a duration: what the next two are taken from
--   latency_p50_ms             the median duration of an entry, in milliseconds; NULL where none is left
--   latency_p95_ms             what 95 of 100 entries do not exceed, interpolated
CREATE VIEW {s}usage_by_day AS
    SELECT namespace,
           day,
           count(DISTINCT session_id) AS sessions,
           sum(entries) AS entries,
           sum(turns) AS turns,
           sum(model_calls) AS model_calls,
           sum(tool_calls) AS tool_calls,
           sum(errors) AS errors,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cache_read_input_tokens) AS cache_read_input_tokens,
           sum(cache_write_input_tokens) AS cache_write_input_tokens,
           sum(reasoning_output_tokens) AS reasoning_output_tokens,
           round(sum(CAST(cost_usd AS INTEGER)) +
               sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) / 1e10, 10) AS cost_usd,
           sum(unpriced_calls) AS unpriced_calls,
           round(sum(duration_ms), 3) AS duration_ms,
           sum(content_bytes) AS content_bytes,
           max(timed) AS timed_entries,
           round(max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5) +
               max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5), 6) AS latency_p50_ms,
           round(max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0) +
               max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END) * ((timed - 1) * 19 % 20 / 20.0), 6)
               AS latency_p95_ms
      FROM (SELECT *, count(latency_ms) OVER (PARTITION BY namespace, day) AS timed,
                   row_number() OVER (PARTITION BY namespace, day ORDER BY latency_ms IS NULL, latency_ms) AS place
              FROM usage_lines)
     GROUP BY namespace, day;

-- usage_by_session: a row for each session that has ever had entries, and for each user it had them under, with the first
-- and the last day of its entries. Sessions of an erased user have a random id in place of theirs.
CREATE VIEW {s}usage_by_session AS
    SELECT namespace,
           session_id,
           user_id,
           min(day) AS first_day,
           max(day) AS last_day,
           1 AS sessions,
           sum(entries) AS entries,
           sum(turns) AS turns,
           sum(model_calls) AS model_calls,
           sum(tool_calls) AS tool_calls,
           sum(errors) AS errors,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cache_read_input_tokens) AS cache_read_input_tokens,
           sum(cache_write_input_tokens) AS cache_write_input_tokens,
           sum(reasoning_output_tokens) AS reasoning_output_tokens,
           round(sum(CAST(cost_usd AS INTEGER)) +
               sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) / 1e10, 10) AS cost_usd,
           sum(unpriced_calls) AS unpriced_calls,
           round(sum(duration_ms), 3) AS duration_ms,
           sum(content_bytes) AS content_bytes,
           max(timed) AS timed_entries,
           round(max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5) +
               max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5), 6) AS latency_p50_ms,
           round(max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0) +
               max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END) * ((timed - 1) * 19 % 20 / 20.0), 6)
               AS latency_p95_ms
      FROM (SELECT *, count(latency_ms) OVER (PARTITION BY namespace, session_id, user_id) AS timed,
                   row_number() OVER (PARTITION BY namespace, session_id, user_id ORDER BY latency_ms IS NULL, latency_ms) AS place
              FROM usage_lines)
     GROUP BY namespace, session_id, user_id;

-- usage_by_user: a row for each day and user; NULL where a session has none, or its user was erased.
CREATE VIEW {s}usage_by_user AS
    SELECT namespace,
           day,
           user_id,
           count(DISTINCT session_id) AS sessions,
           sum(entries) AS entries,
           sum(turns) AS turns,
           sum(model_calls) AS model_calls,
           sum(tool_calls) AS tool_calls,
           sum(errors) AS errors,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cache_read_input_tokens) AS cache_read_input_tokens,
           sum(cache_write_input_tokens) AS cache_write_input_tokens,
           sum(reasoning_output_tokens) AS reasoning_output_tokens,
           round(sum(CAST(cost_usd AS INTEGER)) +
               sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) / 1e10, 10) AS cost_usd,
           sum(unpriced_calls) AS unpriced_calls,
           round(sum(duration_ms), 3) AS duration_ms,
           sum(content_bytes) AS content_bytes,
           max(timed) AS timed_entries,
           round(max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5) +
               max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5), 6) AS latency_p50_ms,
           round(max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0) +
               max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END) * ((timed - 1) * 19 % 20 / 20.0), 6)
               AS latency_p95_ms
      FROM (SELECT *, count(latency_ms) OVER (PARTITION BY namespace, day, user_id) AS timed,
                   row_number() OVER (PARTITION BY namespace, day, user_id ORDER BY latency_ms IS NULL, latency_ms) AS place
              FROM usage_lines)
     GROUP BY namespace, day, user_id;

-- usage_by_agent: a row for each day and agent.
CREATE VIEW {s}usage_by_agent AS
    SELECT namespace,
           day,
           agent_name,
           count(DISTINCT session_id) AS sessions,
           sum(entries) AS entries,
           sum(turns) AS turns,
           sum(model_calls) AS model_calls,
           sum(tool_calls) AS tool_calls,
           sum(errors) AS errors,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cache_read_input_tokens) AS cache_read_input_tokens,
           sum(cache_write_input_tokens) AS cache_write_input_tokens,
           sum(reasoning_output_tokens) AS reasoning_output_tokens,
           round(sum(CAST(cost_usd AS INTEGER)) +
               sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) / 1e10, 10) AS cost_usd,
           sum(unpriced_calls) AS unpriced_calls,
           round(sum(duration_ms), 3) AS duration_ms,
           sum(content_bytes) AS content_bytes,
           max(timed) AS timed_entries,
           round(max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5) +
               max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5), 6) AS latency_p50_ms,
           round(max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0) +
               max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END) * ((timed - 1) * 19 % 20 / 20.0), 6)
               AS latency_p95_ms
      FROM (SELECT *, count(latency_ms) OVER (PARTITION BY namespace, day, agent_name) AS timed,
                   row_number() OVER (PARTITION BY namespace, day, agent_name ORDER BY latency_ms IS NULL, latency_ms) AS place
              FROM usage_lines)
     GROUP BY namespace, day, agent_name;

-- usage_by_model: a row for each day, provider and model; NULL for entries that name none, such as those of users. The
-- model is the one that answered, else the one that was asked for.
CREATE VIEW {s}usage_by_model AS
    SELECT namespace,
           day,
           provider_name,
           model,
           count(DISTINCT session_id) AS sessions,
           sum(entries) AS entries,
           sum(turns) AS turns,
           sum(model_calls) AS model_calls,
           sum(tool_calls) AS tool_calls,
           sum(errors) AS errors,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cache_read_input_tokens) AS cache_read_input_tokens,
           sum(cache_write_input_tokens) AS cache_write_input_tokens,
           sum(reasoning_output_tokens) AS reasoning_output_tokens,
           round(sum(CAST(cost_usd AS INTEGER)) +
               sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) / 1e10, 10) AS cost_usd,
           sum(unpriced_calls) AS unpriced_calls,
           round(sum(duration_ms), 3) AS duration_ms,
           sum(content_bytes) AS content_bytes,
           max(timed) AS timed_entries,
           round(max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5) +
               max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5), 6) AS latency_p50_ms,
           round(max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0) +
               max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END) * ((timed - 1) * 19 % 20 / 20.0), 6)
               AS latency_p95_ms
      FROM (SELECT *, count(latency_ms) OVER (PARTITION BY namespace, day, provider_name, model) AS timed,
                   row_number() OVER (PARTITION BY namespace, day, provider_name, model ORDER BY latency_ms IS NULL, latency_ms) AS place
              FROM usage_lines)
     GROUP BY namespace, day, provider_name, model;

-- usage_by_tool: a row for each day and tool; NULL for entries that name none.
CREATE VIEW {s}usage_by_tool AS
    SELECT namespace,
           day,
           tool_name,
           count(DISTINCT session_id) AS sessions,
           sum(entries) AS entries,
           sum(turns) AS turns,
           sum(model_calls) AS model_calls,
           sum(tool_calls) AS tool_calls,
           sum(errors) AS errors,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cache_read_input_tokens) AS cache_read_input_tokens,
           sum(cache_write_input_tokens) AS cache_write_input_tokens,
           sum(reasoning_output_tokens) AS reasoning_output_tokens,
           round(sum(CAST(cost_usd AS INTEGER)) +
               sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) / 1e10, 10) AS cost_usd,
           sum(unpriced_calls) AS unpriced_calls,
           round(sum(duration_ms), 3) AS duration_ms,
           sum(content_bytes) AS content_bytes,
           max(timed) AS timed_entries,
           round(max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5) +
               max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5), 6) AS latency_p50_ms,
           round(max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0) +
               max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END) * ((timed - 1) * 19 % 20 / 20.0), 6)
               AS latency_p95_ms
      FROM (SELECT *, count(latency_ms) OVER (PARTITION BY namespace, day, tool_name) AS timed,
                   row_number() OVER (PARTITION BY namespace, day, tool_name ORDER BY latency_ms IS NULL, latency_ms) AS place
              FROM usage_lines)
     GROUP BY namespace, day, tool_name;

-- cache_usage_by_day: what happened in the result cache, by day and agent; NULL for entries of no agent.
--   hits, misses, sets   lookups that found a live entry or none, and writes
--   evictions            entries that went to make room
--   expirations          entries that were removed after their end
--   invalidations        entries that were removed for a reason, by key, tag, agent, content hash or clear
--   hit_rate             hits by lookups, 0 to 1; NULL where there were none
CREATE VIEW {s}cache_usage_by_day AS
    SELECT namespace,
           day,
           nullif(agent_name, '') AS agent_name,
           hits,
           misses,
           sets,
           evictions,
           expirations,
           invalidations_key + invalidations_tag + invalidations_agent + invalidations_content_hash + invalidations_clear
               AS invalidations,
           CAST(hits AS double precision) / nullif(hits + misses, 0) AS hit_rate
      FROM {s}cache_ledger;

-- storage_usage: what is stored, by table, namespace and user.
--   table_name   one of the tables
--   user_id      whose session the rows belong to; NULL for none, and for the cache
--   row_count    rows
--   bytes        of what callers put in: contents, values, texts and metadata, without what the database adds
CREATE VIEW {s}storage_usage AS
    SELECT namespace, CAST('sessions' AS varchar) AS table_name, user_id, count(*) AS row_count,
           sum(coalesce(length(CAST(title AS BLOB)), 0) + coalesce(length(CAST(instructions AS BLOB)), 0) + coalesce(length(CAST(metadata AS BLOB)), 0)) AS bytes
      FROM {s}sessions GROUP BY namespace, user_id
     UNION ALL
    SELECT s.namespace, 'session_segments', s.user_id, count(*), 0
      FROM {s}session_segments AS g JOIN {s}sessions AS s ON s.namespace = g.namespace AND s.session_id = g.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'history_entries', s.user_id, count(*), sum(h.content_bytes + coalesce(length(CAST(h.metadata AS BLOB)), 0))
      FROM {s}history_entries AS h JOIN {s}sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'summaries', s.user_id, count(*), sum(coalesce(length(CAST(m.content AS BLOB)), 0))
      FROM {s}summaries AS m JOIN {s}sessions AS s ON s.namespace = m.namespace AND s.session_id = m.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'state_entries', s.user_id, count(*), sum(coalesce(length(CAST(e.value AS BLOB)), 0))
      FROM {s}state_entries AS e JOIN {s}sessions AS s ON s.namespace = e.namespace AND s.session_id = e.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT namespace, 'cache_entries', NULL, count(*), sum(size_bytes + coalesce(length(CAST(request AS BLOB)), 0) + coalesce(length(CAST(metadata AS BLOB)), 0))
      FROM {s}cache_entries GROUP BY namespace
     UNION ALL
    SELECT namespace, 'usage_ledger', user_id, count(*), 0 FROM {s}usage_ledger GROUP BY namespace, user_id;

-- expiry_backlog: what is due to be deleted and was not swept yet. Nobody can read it any more, but for idle sessions.
--   kind              expired_sessions, idle_sessions, expired_state or expired_cache
--   due               how many
--   oldest_due_at     since when the oldest is
--   overdue_seconds   how long that is by now
CREATE VIEW {s}expiry_backlog AS
    SELECT namespace, CAST('expired_sessions' AS varchar) AS kind, count(*) AS due, min(expires_at) AS oldest_due_at,
           (julianday('now') - julianday(min(expires_at))) * 86400.0 AS overdue_seconds
      FROM {s}sessions WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') GROUP BY namespace
     UNION ALL
    SELECT s.namespace, 'idle_sessions', count(*), min(strftime('%Y-%m-%dT%H:%M:%f000Z', s.last_activity_at, printf('+%.3f seconds', p.value / 1e6))),
           (julianday('now') - julianday(min(strftime('%Y-%m-%dT%H:%M:%f000Z', s.last_activity_at, printf('+%.3f seconds', p.value / 1e6))))) * 86400.0
      FROM {s}store_settings AS p JOIN {s}sessions AS s ON s.namespace = p.namespace
     WHERE p.name = 'max_idle' AND s.active_hour <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', printf('-%.3f seconds', p.value / 1e6))
       AND s.last_activity_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', printf('-%.3f seconds', p.value / 1e6)) AND (s.expires_at IS NULL OR s.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
       AND (s.lease_until IS NULL OR s.lease_until <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
     GROUP BY s.namespace
     UNION ALL
    SELECT namespace, 'expired_state', count(*), min(expires_at), (julianday('now') - julianday(min(expires_at))) * 86400.0
      FROM {s}state_entries WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') GROUP BY namespace
     UNION ALL
    SELECT namespace, 'expired_cache', count(*), min(keep_until), (julianday('now') - julianday(min(keep_until))) * 86400.0
      FROM {s}cache_entries WHERE keep_until <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') GROUP BY namespace;

-- session_lineage: a row for each living session: which session it was forked from, how deep below the first one, and how
-- much of its history is its own.
--   parent_session_id   NULL for one that is no fork; the parent may be gone
--   root_session_id     where the line of forks began
--   forked_at_seq       the last position that it shares with its parent
--   depth               how many forks lead to it, as far as the sessions between are there
--   forks               living sessions forked directly from it
--   entries             entries that it sees
--   own_entries         of them, those whose rows it owns
CREATE VIEW {s}session_lineage AS
    WITH RECURSIVE up (namespace, session_id, ancestor_id, created_at, depth) AS (
        SELECT namespace, session_id, parent_session_id, created_at, 0 FROM {s}sessions WHERE (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
         UNION ALL
        SELECT up.namespace, up.session_id, p.parent_session_id, p.created_at, up.depth + 1
          FROM up JOIN {s}sessions AS p ON p.namespace = up.namespace AND p.session_id = up.ancestor_id
           AND p.created_at <= up.created_at
    ), depths AS (
        SELECT namespace, session_id, max(depth + CASE WHEN ancestor_id IS NULL THEN 0 ELSE 1 END) AS depth
          FROM up GROUP BY namespace, session_id
    )
    SELECT s.namespace,
           s.session_id,
           s.user_id,
           s.parent_session_id,
           s.root_session_id,
           s.forked_at_seq,
           d.depth AS depth,
           (SELECT count(*) FROM {s}sessions AS f
             WHERE f.namespace = s.namespace AND f.parent_session_id = s.session_id AND f.created_at >= s.created_at
               AND (f.expires_at IS NULL OR f.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))) AS forks,
           s.next_seq - s.first_seq AS entries,
           s.next_seq - s.first_seq - coalesce((
               SELECT sum(g.to_seq - g.from_seq + 1) FROM {s}session_segments AS g
                WHERE g.namespace = s.namespace AND g.session_id = s.session_id), 0) AS own_entries,
           s.created_at
      FROM {s}sessions AS s JOIN depths AS d ON d.namespace = s.namespace AND d.session_id = s.session_id;
