-- Written by ./run sql: what all migrations come to on SQLite. A database in memory is made from it, since they take
-- ten times as long; a test compares the two.
BEGIN TRANSACTION;
CREATE TABLE cache_claims (
	namespace VARCHAR(512) NOT NULL, 
	"key" VARCHAR(512) NOT NULL, 
	token VARCHAR(36) NOT NULL, 
	claimed_until VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_cache_claims PRIMARY KEY (namespace, "key")
);
CREATE TABLE cache_entries (
	namespace VARCHAR(512) NOT NULL, 
	"key" VARCHAR(512) NOT NULL, 
	value BLOB NOT NULL, 
	codec VARCHAR(16) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	agent_name VARCHAR(512), 
	request TEXT, 
	content_hash VARCHAR(512), 
	metadata TEXT, 
	version BIGINT NOT NULL, 
	created_at VARCHAR(27) NOT NULL, 
	expires_at VARCHAR(27), 
	keep_until VARCHAR(27), 
	last_accessed_at VARCHAR(27) NOT NULL, 
	access_seq BIGINT NOT NULL, 
	access_count BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_cache_entries PRIMARY KEY (namespace, "key"), 
	CONSTRAINT ck_cache_entries_keep_until CHECK ((expires_at IS NULL) = (keep_until IS NULL))
);
CREATE TABLE cache_ledger (
	namespace VARCHAR(512) NOT NULL, 
	day VARCHAR(10) NOT NULL, 
	agent_name VARCHAR(512) DEFAULT '' NOT NULL, 
	hits BIGINT DEFAULT '0' NOT NULL, 
	misses BIGINT DEFAULT '0' NOT NULL, 
	sets BIGINT DEFAULT '0' NOT NULL, 
	evictions BIGINT DEFAULT '0' NOT NULL, 
	expirations BIGINT DEFAULT '0' NOT NULL, 
	invalidations_key BIGINT DEFAULT '0' NOT NULL, 
	invalidations_tag BIGINT DEFAULT '0' NOT NULL, 
	invalidations_agent BIGINT DEFAULT '0' NOT NULL, 
	invalidations_content_hash BIGINT DEFAULT '0' NOT NULL, 
	invalidations_clear BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_cache_ledger PRIMARY KEY (namespace, day, agent_name)
);
CREATE TABLE cache_tags (
	namespace VARCHAR(512) NOT NULL, 
	tag VARCHAR(512) NOT NULL, 
	version BIGINT NOT NULL, 
	"key" VARCHAR(512) NOT NULL, 
	CONSTRAINT pk_cache_tags PRIMARY KEY (namespace, tag, version), 
	CONSTRAINT fk_cache_tags_namespace_key FOREIGN KEY(namespace, "key") REFERENCES cache_entries (namespace, "key") ON DELETE CASCADE
);
CREATE TABLE history_entries (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	seq BIGINT NOT NULL, 
	entry_id VARCHAR(512) NOT NULL, 
	turn BIGINT NOT NULL, 
	role VARCHAR(512), 
	agent_name VARCHAR(512), 
	content TEXT NOT NULL, 
	metadata TEXT, 
	provider_name VARCHAR(512), 
	request_model VARCHAR(512), 
	response_model VARCHAR(512), 
	input_tokens BIGINT, 
	output_tokens BIGINT, 
	cache_read_input_tokens BIGINT, 
	cache_write_input_tokens BIGINT, 
	reasoning_output_tokens BIGINT, 
	cost_usd FLOAT, 
	tool_name VARCHAR(512), 
	tool_call_id VARCHAR(512), 
	duration_ms FLOAT, 
	finish_reason VARCHAR(512), 
	error_type VARCHAR(512), 
	content_bytes BIGINT NOT NULL, 
	usage_folded INTEGER DEFAULT '0' NOT NULL, 
	created_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_history_entries PRIMARY KEY (namespace, session_id, seq), 
	CONSTRAINT fk_history_entries_namespace_session_id FOREIGN KEY(namespace, session_id) REFERENCES sessions (namespace, session_id), 
	CONSTRAINT ck_history_entries_seq CHECK (seq >= 1)
);
CREATE TABLE model_prices (
	namespace VARCHAR(512) NOT NULL, 
	position BIGINT NOT NULL, 
	provider_name VARCHAR(512) NOT NULL, 
	model VARCHAR(512) NOT NULL, 
	"match" TEXT NOT NULL, 
	valid_from VARCHAR(10) NOT NULL, 
	above_input_tokens BIGINT NOT NULL, 
	input_price FLOAT, 
	output_price FLOAT, 
	cache_read_price FLOAT, 
	cache_write_price FLOAT, 
	cache_write_1h_price FLOAT, 
	source TEXT NOT NULL, 
	updated_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_model_prices PRIMARY KEY (namespace, position, valid_from, above_input_tokens)
);
CREATE TABLE session_list_items (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	position BIGINT NOT NULL, 
	value TEXT NOT NULL, 
	created_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_session_list_items PRIMARY KEY (namespace, session_id, name, position), 
	CONSTRAINT fk_session_list_items_namespace_session_id_name FOREIGN KEY(namespace, session_id, name) REFERENCES session_lists (namespace, session_id, name) ON DELETE CASCADE, 
	CONSTRAINT ck_session_list_items_position CHECK (position >= 1)
);
CREATE TABLE session_lists (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	item_count BIGINT DEFAULT '0' NOT NULL, 
	created_at VARCHAR(27) NOT NULL, 
	updated_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_session_lists PRIMARY KEY (namespace, session_id, name), 
	CONSTRAINT fk_session_lists_namespace_session_id FOREIGN KEY(namespace, session_id) REFERENCES sessions (namespace, session_id) ON DELETE CASCADE
);
CREATE TABLE session_segments (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	from_seq BIGINT NOT NULL, 
	to_seq BIGINT NOT NULL, 
	owner_session_id VARCHAR(512) NOT NULL, 
	CONSTRAINT pk_session_segments PRIMARY KEY (namespace, session_id, from_seq), 
	CONSTRAINT fk_session_segments_namespace_session_id FOREIGN KEY(namespace, session_id) REFERENCES sessions (namespace, session_id) ON DELETE CASCADE, 
	CONSTRAINT fk_session_segments_namespace_owner_session_id FOREIGN KEY(namespace, owner_session_id) REFERENCES sessions (namespace, session_id), 
	CONSTRAINT ck_session_segments_seq CHECK (from_seq >= 1 AND to_seq >= from_seq), 
	CONSTRAINT ck_session_segments_owner CHECK (owner_session_id <> session_id)
);
CREATE TABLE sessions (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	user_id VARCHAR(512), 
	agent_name VARCHAR(512), 
	title TEXT, 
	status VARCHAR(16) DEFAULT 'ready' NOT NULL, 
	instructions TEXT, 
	metadata TEXT DEFAULT '{}' NOT NULL, 
	project_root TEXT, 
	cwd TEXT, 
	parent_session_id VARCHAR(512), 
	root_session_id VARCHAR(512) NOT NULL, 
	forked_at_seq BIGINT, 
	first_seq BIGINT DEFAULT '1' NOT NULL, 
	next_seq BIGINT DEFAULT '1' NOT NULL, 
	last_turn BIGINT DEFAULT '0' NOT NULL, 
	revision BIGINT DEFAULT '1' NOT NULL, 
	ttl BIGINT, 
	expires_at VARCHAR(27), 
	created_at VARCHAR(27) NOT NULL, 
	last_activity_at VARCHAR(27) NOT NULL, 
	active_hour VARCHAR(27) NOT NULL, 
	lease_owner VARCHAR(512), 
	lease_token BIGINT DEFAULT '0' NOT NULL, 
	lease_until VARCHAR(27), belongs_to VARCHAR(512), 
	CONSTRAINT pk_sessions PRIMARY KEY (namespace, session_id), 
	CONSTRAINT ck_sessions_status CHECK (status IN ('starting', 'ready', 'busy', 'dead')), 
	CONSTRAINT ck_sessions_seq CHECK (first_seq >= 1 AND next_seq >= first_seq), 
	CONSTRAINT ck_sessions_fork CHECK ((parent_session_id IS NULL) = (forked_at_seq IS NULL)), 
	CONSTRAINT ck_sessions_ttl CHECK ((ttl IS NULL) = (expires_at IS NULL))
);
CREATE TABLE shared_state (
	namespace VARCHAR(512) NOT NULL, 
	scope VARCHAR(16) NOT NULL, 
	owner_id VARCHAR(512) NOT NULL, 
	"key" VARCHAR(512) NOT NULL, 
	value TEXT NOT NULL, 
	version BIGINT DEFAULT '1' NOT NULL, 
	created_at VARCHAR(27) NOT NULL, 
	updated_at VARCHAR(27) NOT NULL, 
	expires_at VARCHAR(27), user_id VARCHAR(512), 
	CONSTRAINT pk_shared_state PRIMARY KEY (namespace, scope, owner_id, "key"), 
	CONSTRAINT ck_shared_state_scope CHECK (scope IN ('user', 'app'))
);
CREATE TABLE state_entries (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	"key" VARCHAR(512) NOT NULL, 
	value TEXT NOT NULL, 
	version BIGINT DEFAULT '1' NOT NULL, 
	updated_at VARCHAR(27) NOT NULL, 
	expires_at VARCHAR(27), created_at VARCHAR(27), 
	CONSTRAINT pk_state_entries PRIMARY KEY (namespace, session_id, "key"), 
	CONSTRAINT fk_state_entries_namespace_session_id FOREIGN KEY(namespace, session_id) REFERENCES sessions (namespace, session_id) ON DELETE CASCADE
);
CREATE TABLE statestore_alembic_version (
	version_num VARCHAR(32) NOT NULL, oldest_code VARCHAR(32), 
	CONSTRAINT statestore_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "statestore_alembic_version" VALUES('0011','0011');
CREATE TABLE store_settings (
	namespace VARCHAR(512) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	value BIGINT NOT NULL, 
	CONSTRAINT pk_store_settings PRIMARY KEY (namespace, name)
);
CREATE TABLE summaries (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	start_seq BIGINT NOT NULL, 
	end_seq BIGINT NOT NULL, 
	content TEXT NOT NULL, 
	token_count BIGINT, 
	created_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_summaries PRIMARY KEY (namespace, session_id, start_seq), 
	CONSTRAINT fk_summaries_namespace_session_id FOREIGN KEY(namespace, session_id) REFERENCES sessions (namespace, session_id) ON DELETE CASCADE, 
	CONSTRAINT ck_summaries_seq CHECK (start_seq >= 1 AND end_seq >= start_seq)
);
CREATE TABLE usage_ledger (
	namespace VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512) NOT NULL, 
	bucket_at VARCHAR(27) NOT NULL, 
	line INTEGER NOT NULL, 
	user_id VARCHAR(512), 
	agent_name VARCHAR(512), 
	provider_name VARCHAR(512), 
	model VARCHAR(512), 
	tool_name VARCHAR(512), 
	entries BIGINT NOT NULL, 
	turns BIGINT NOT NULL, 
	model_calls BIGINT NOT NULL, 
	tool_calls BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cache_read_input_tokens BIGINT NOT NULL, 
	cache_write_input_tokens BIGINT NOT NULL, 
	reasoning_output_tokens BIGINT NOT NULL, 
	cost_usd FLOAT, 
	unpriced_calls BIGINT NOT NULL, 
	duration_ms FLOAT NOT NULL, 
	content_bytes BIGINT NOT NULL, 
	CONSTRAINT pk_usage_ledger PRIMARY KEY (namespace, session_id, bucket_at, line)
);
CREATE TABLE usage_records (
	namespace VARCHAR(512) NOT NULL, 
	record_id VARCHAR(512) NOT NULL, 
	session_id VARCHAR(512), 
	user_id VARCHAR(512), 
	agent_name VARCHAR(512), 
	provider_name VARCHAR(512), 
	model VARCHAR(512), 
	tool_name VARCHAR(512), 
	input_tokens BIGINT, 
	output_tokens BIGINT, 
	cache_read_input_tokens BIGINT, 
	cache_write_input_tokens BIGINT, 
	reasoning_output_tokens BIGINT, 
	cost_usd FLOAT, 
	duration_ms FLOAT, 
	error_type VARCHAR(512), 
	created_at VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_usage_records PRIMARY KEY (namespace, record_id)
);
CREATE TABLE usage_rollup (
	namespace VARCHAR(512) NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	part VARCHAR(512) NOT NULL, 
	line INTEGER NOT NULL, 
	user_id VARCHAR(512), 
	agent_name VARCHAR(512), 
	provider_name VARCHAR(512), 
	model VARCHAR(512), 
	tool_name VARCHAR(512), 
	first_day VARCHAR(10) NOT NULL, 
	last_day VARCHAR(10) NOT NULL, 
	sessions BIGINT NOT NULL, 
	entries BIGINT NOT NULL, 
	turns BIGINT NOT NULL, 
	model_calls BIGINT NOT NULL, 
	tool_calls BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cache_read_input_tokens BIGINT NOT NULL, 
	cache_write_input_tokens BIGINT NOT NULL, 
	reasoning_output_tokens BIGINT NOT NULL, 
	unpriced_calls BIGINT NOT NULL, 
	content_bytes BIGINT NOT NULL, 
	cost_usd FLOAT, 
	cost_fraction BIGINT, 
	duration_us BIGINT NOT NULL, 
	timed_entries BIGINT NOT NULL, 
	latency_p50_ms FLOAT, 
	latency_p95_ms FLOAT, 
	latency_00 BIGINT, 
	latency_01 BIGINT, 
	latency_02 BIGINT, 
	latency_03 BIGINT, 
	latency_04 BIGINT, 
	latency_05 BIGINT, 
	latency_06 BIGINT, 
	latency_07 BIGINT, 
	latency_08 BIGINT, 
	latency_09 BIGINT, 
	latency_10 BIGINT, 
	latency_11 BIGINT, 
	latency_12 BIGINT, 
	latency_13 BIGINT, 
	latency_14 BIGINT, 
	latency_15 BIGINT, 
	latency_16 BIGINT, 
	latency_17 BIGINT, 
	latency_18 BIGINT, 
	latency_19 BIGINT, 
	latency_20 BIGINT, 
	latency_21 BIGINT, 
	latency_22 BIGINT, 
	latency_23 BIGINT, 
	latency_24 BIGINT, 
	latency_25 BIGINT, 
	latency_26 BIGINT, 
	latency_27 BIGINT, 
	latency_28 BIGINT, 
	latency_29 BIGINT, 
	latency_30 BIGINT, 
	latency_31 BIGINT, 
	latency_32 BIGINT, 
	latency_33 BIGINT, 
	latency_34 BIGINT, 
	latency_35 BIGINT, 
	latency_36 BIGINT, 
	latency_37 BIGINT, 
	latency_38 BIGINT, 
	latency_39 BIGINT, 
	latency_40 BIGINT, 
	latency_41 BIGINT, 
	latency_42 BIGINT, 
	latency_43 BIGINT, 
	latency_44 BIGINT, 
	latency_45 BIGINT, 
	latency_46 BIGINT, 
	latency_47 BIGINT, priced BIGINT, total_duration_us BIGINT, 
	CONSTRAINT pk_usage_rollup PRIMARY KEY (namespace, kind, part, line)
);
CREATE TABLE usage_rollup_changes (
	namespace VARCHAR(512) NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	part VARCHAR(512) NOT NULL, 
	change_id BIGINT NOT NULL, 
	CONSTRAINT pk_usage_rollup_changes PRIMARY KEY (namespace, kind, part, change_id)
);
CREATE TABLE usage_rollup_state (
	namespace VARCHAR(512) NOT NULL, 
	announced_until VARCHAR(27) NOT NULL, 
	fence BIGINT, 
	filled_to VARCHAR(512) DEFAULT '' NOT NULL, 
	rolled_until VARCHAR(27), 
	days_until VARCHAR(10), 
	CONSTRAINT pk_usage_rollup_state PRIMARY KEY (namespace)
);
CREATE INDEX ix_sessions_user_id_namespace_active_hour ON sessions (user_id, namespace, active_hour);
CREATE INDEX ix_sessions_parent_session_id_namespace ON sessions (parent_session_id, namespace) WHERE parent_session_id IS NOT NULL;
CREATE INDEX ix_sessions_namespace_expires_at ON sessions (namespace, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX ix_session_segments_owner_session_id_namespace_from_seq ON session_segments (owner_session_id, namespace, from_seq);
CREATE UNIQUE INDEX uq_history_entries_entry_id ON history_entries (entry_id, session_id, namespace);
CREATE INDEX ix_history_entries_namespace_created_at ON history_entries (namespace, created_at);
CREATE INDEX ix_state_entries_namespace_expires_at ON state_entries (namespace, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX ix_cache_entries_namespace_last_accessed_at_access_seq ON cache_entries (namespace, last_accessed_at, access_seq);
CREATE INDEX ix_cache_entries_namespace_keep_until ON cache_entries (namespace, keep_until) WHERE keep_until IS NOT NULL;
CREATE INDEX ix_cache_entries_namespace_agent_name ON cache_entries (namespace, agent_name) WHERE agent_name IS NOT NULL;
CREATE INDEX ix_cache_entries_namespace_content_hash ON cache_entries (namespace, content_hash) WHERE content_hash IS NOT NULL;
CREATE INDEX ix_cache_tags_key_namespace ON cache_tags ("key", namespace);
CREATE INDEX ix_usage_ledger_namespace_bucket_at ON usage_ledger (namespace, bucket_at);
CREATE INDEX ix_usage_ledger_namespace_user_id ON usage_ledger (namespace, user_id);
CREATE VIEW cache_usage_by_day AS
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
      FROM cache_ledger;
CREATE VIEW session_lineage AS
    SELECT s.namespace,
           s.session_id,
           s.user_id,
           s.parent_session_id,
           s.root_session_id,
           s.forked_at_seq,
           CASE WHEN s.parent_session_id IS NULL THEN 0 ELSE (
               WITH RECURSIVE up (session_id, parent_session_id, created_at) AS (
                   SELECT s.session_id, s.parent_session_id, s.created_at
                    UNION
                   SELECT p.session_id, p.parent_session_id, p.created_at
                     FROM up JOIN sessions AS p ON p.namespace = s.namespace AND p.session_id = up.parent_session_id
                      AND p.created_at <= up.created_at
               )
               SELECT count(up.parent_session_id) FROM up) END AS depth,
           (SELECT count(*) FROM sessions AS f
             WHERE f.namespace = s.namespace AND f.parent_session_id = s.session_id AND f.created_at >= s.created_at
               AND (f.expires_at IS NULL OR f.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))) AS forks,
           s.next_seq - s.first_seq AS entries,
           s.next_seq - s.first_seq - coalesce((
               SELECT sum(g.to_seq - g.from_seq + 1) FROM session_segments AS g
                WHERE g.namespace = s.namespace AND g.session_id = s.session_id), 0) AS own_entries,
           s.created_at
      FROM sessions AS s
     WHERE (s.expires_at IS NULL OR s.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'));
CREATE INDEX ix_shared_state_namespace_expires_at ON shared_state (namespace, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX ix_usage_records_namespace_created_at ON usage_records (namespace, created_at);
CREATE INDEX ix_usage_records_session_id_namespace ON usage_records (session_id, namespace) WHERE session_id IS NOT NULL;
CREATE INDEX ix_usage_records_user_id_namespace ON usage_records (user_id, namespace) WHERE user_id IS NOT NULL;
CREATE VIEW usage_lines AS
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
      FROM history_entries AS h
      JOIN sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
     WHERE h.usage_folded = 0
     UNION ALL
    SELECT l.namespace, l.bucket_at, substr(l.bucket_at, 1, 10), l.session_id, l.user_id, l.agent_name, l.provider_name,
           l.model, l.tool_name, l.entries, l.turns, l.model_calls, l.tool_calls, l.errors, l.input_tokens, l.output_tokens,
           l.cache_read_input_tokens, l.cache_write_input_tokens, l.reasoning_output_tokens, l.cost_usd, l.unpriced_calls,
           l.duration_ms, l.content_bytes, NULL
      FROM usage_ledger AS l
     UNION ALL
    SELECT r.namespace, r.created_at, substr(r.created_at, 1, 10), r.session_id, r.user_id, r.agent_name, r.provider_name, r.model, r.tool_name,
           0, 0,
           CASE WHEN r.input_tokens IS NOT NULL OR r.output_tokens IS NOT NULL THEN 1 ELSE 0 END,
           CASE WHEN r.tool_name IS NOT NULL THEN 1 ELSE 0 END,
           CASE WHEN r.error_type IS NOT NULL THEN 1 ELSE 0 END,
           coalesce(r.input_tokens, 0), coalesce(r.output_tokens, 0), coalesce(r.cache_read_input_tokens, 0),
           coalesce(r.cache_write_input_tokens, 0), coalesce(r.reasoning_output_tokens, 0), r.cost_usd,
           CASE WHEN r.cost_usd IS NULL AND (r.input_tokens IS NOT NULL OR r.output_tokens IS NOT NULL) THEN 1 ELSE 0 END,
           coalesce(r.duration_ms, 0), 0, r.duration_ms
      FROM usage_records AS r;
CREATE VIEW usage_by_session AS
    SELECT namespace,
           session_id,
           user_id,
           min(day) AS first_day,
           max(day) AS last_day,
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
      FROM (SELECT *, count(latency_ms) OVER (PARTITION BY namespace, session_id, user_id) AS timed,
                   row_number() OVER (PARTITION BY namespace, session_id, user_id ORDER BY latency_ms IS NULL, latency_ms) AS place
              FROM usage_lines)
     GROUP BY namespace, session_id, user_id;
CREATE VIEW storage_usage AS
    SELECT namespace, CAST('sessions' AS varchar) AS table_name, user_id, count(*) AS row_count,
           sum(coalesce(length(CAST(title AS BLOB)), 0) + coalesce(length(CAST(instructions AS BLOB)), 0) + coalesce(length(CAST(metadata AS BLOB)), 0)) AS bytes
      FROM sessions GROUP BY namespace, user_id
     UNION ALL
    SELECT s.namespace, 'session_segments', s.user_id, count(*), 0
      FROM session_segments AS g JOIN sessions AS s ON s.namespace = g.namespace AND s.session_id = g.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'history_entries', s.user_id, count(*), sum(h.content_bytes + coalesce(length(CAST(h.metadata AS BLOB)), 0))
      FROM history_entries AS h JOIN sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'summaries', s.user_id, count(*), sum(coalesce(length(CAST(m.content AS BLOB)), 0))
      FROM summaries AS m JOIN sessions AS s ON s.namespace = m.namespace AND s.session_id = m.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'state_entries', s.user_id, count(*), sum(coalesce(length(CAST(e.value AS BLOB)), 0))
      FROM state_entries AS e JOIN sessions AS s ON s.namespace = e.namespace AND s.session_id = e.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT namespace, 'cache_entries', NULL, count(*), sum(size_bytes + coalesce(length(CAST(request AS BLOB)), 0) + coalesce(length(CAST(metadata AS BLOB)), 0))
      FROM cache_entries GROUP BY namespace
     UNION ALL
    SELECT namespace, 'usage_ledger', user_id, count(*), 0 FROM usage_ledger GROUP BY namespace, user_id
     UNION ALL
    SELECT namespace, 'usage_records', user_id, count(*), 0 FROM usage_records GROUP BY namespace, user_id
     UNION ALL
    SELECT namespace, 'shared_state', CASE WHEN scope = 'user' THEN owner_id END, count(*), sum(coalesce(length(CAST(value AS BLOB)), 0))
      FROM shared_state GROUP BY namespace, CASE WHEN scope = 'user' THEN owner_id END
     UNION ALL
    SELECT s.namespace, 'session_lists', s.user_id, count(*), 0
      FROM session_lists AS l JOIN sessions AS s ON s.namespace = l.namespace AND s.session_id = l.session_id
     GROUP BY s.namespace, s.user_id
     UNION ALL
    SELECT s.namespace, 'session_list_items', s.user_id, count(*), sum(coalesce(length(CAST(i.value AS BLOB)), 0))
      FROM session_list_items AS i JOIN sessions AS s ON s.namespace = i.namespace AND s.session_id = i.session_id
     GROUP BY s.namespace, s.user_id;
CREATE VIEW expiry_backlog AS
    SELECT namespace, CAST('expired_sessions' AS varchar) AS kind, count(*) AS due, min(expires_at) AS oldest_due_at,
           (julianday('now') - julianday(min(expires_at))) * 86400.0 AS overdue_seconds
      FROM sessions WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') GROUP BY namespace
     UNION ALL
    SELECT s.namespace, 'idle_sessions', count(*), min(strftime('%Y-%m-%dT%H:%M:%f000Z', s.last_activity_at, printf('+%.3f seconds', p.value / 1e6))),
           (julianday('now') - julianday(min(strftime('%Y-%m-%dT%H:%M:%f000Z', s.last_activity_at, printf('+%.3f seconds', p.value / 1e6))))) * 86400.0
      FROM store_settings AS p JOIN sessions AS s ON s.namespace = p.namespace
     WHERE p.name = 'max_idle' AND s.active_hour <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', printf('-%.3f seconds', p.value / 1e6))
       AND s.last_activity_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', printf('-%.3f seconds', p.value / 1e6)) AND (s.expires_at IS NULL OR s.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
       AND (s.lease_until IS NULL OR s.lease_until <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
     GROUP BY s.namespace
     UNION ALL
    SELECT namespace, 'expired_state', count(*), min(expires_at), (julianday('now') - julianday(min(expires_at))) * 86400.0
      FROM (SELECT namespace, expires_at FROM state_entries WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
             UNION ALL
            SELECT namespace, expires_at FROM shared_state WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')) AS keys
     GROUP BY namespace
     UNION ALL
    SELECT namespace, 'expired_cache', count(*), min(keep_until), (julianday('now') - julianday(min(keep_until))) * 86400.0
      FROM cache_entries WHERE keep_until <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') GROUP BY namespace;
CREATE VIEW session_history AS
    SELECT s.namespace, s.session_id, s.user_id,
           h.seq, h.turn, h.entry_id, h.session_id AS owner_session_id, h.role, h.agent_name, h.content,
           h.metadata, h.provider_name, h.request_model, h.response_model, h.input_tokens, h.output_tokens,
           h.cache_read_input_tokens, h.cache_write_input_tokens, h.reasoning_output_tokens, h.cost_usd,
           h.tool_name, h.tool_call_id, h.duration_ms, h.finish_reason, h.error_type, h.content_bytes,
           h.created_at
      FROM sessions AS s
      JOIN history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
       AND h.seq >= s.first_seq AND h.seq < s.next_seq
     WHERE (s.expires_at IS NULL OR s.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
     UNION ALL
    SELECT s.namespace, s.session_id, s.user_id,
           h.seq, h.turn, h.entry_id, h.session_id AS owner_session_id, h.role, h.agent_name, h.content,
           h.metadata, h.provider_name, h.request_model, h.response_model, h.input_tokens, h.output_tokens,
           h.cache_read_input_tokens, h.cache_write_input_tokens, h.reasoning_output_tokens, h.cost_usd,
           h.tool_name, h.tool_call_id, h.duration_ms, h.finish_reason, h.error_type, h.content_bytes,
           h.created_at
      FROM sessions AS s
      JOIN session_segments AS g ON g.namespace = s.namespace AND g.session_id = s.session_id
      JOIN history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
       AND h.seq >= g.from_seq AND h.seq <= g.to_seq
     WHERE (s.expires_at IS NULL OR s.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'));
CREATE VIEW session_state AS
    SELECT s.namespace, s.session_id, s.user_id, s.agent_name, e.key, e.value, e.version, e.created_at, e.updated_at,
           e.expires_at
      FROM sessions AS s
      JOIN state_entries AS e ON e.namespace = s.namespace AND e.session_id = s.session_id
     WHERE (s.expires_at IS NULL OR s.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
       AND (e.expires_at IS NULL OR e.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'));
CREATE INDEX ix_sessions_belongs_to_namespace ON sessions (belongs_to, namespace) WHERE belongs_to IS NOT NULL;
CREATE INDEX ix_shared_state_user_id_namespace ON shared_state (user_id, namespace) WHERE user_id IS NOT NULL;
CREATE INDEX ix_usage_rollup_user_id_namespace_kind ON usage_rollup (user_id, namespace, kind);
CREATE VIEW usage_unsummed_lines AS
    WITH RECURSIVE namespaces (name) AS (
        SELECT min(f.name) FROM (SELECT min(x.namespace) AS name FROM sessions AS x UNION ALL SELECT min(x.namespace) AS name FROM usage_ledger AS x UNION ALL SELECT min(x.namespace) AS name FROM usage_records AS x) AS f
         UNION ALL
        SELECT (SELECT min(f.name) FROM (SELECT min(x.namespace) AS name FROM sessions AS x WHERE x.namespace > n.name UNION ALL SELECT min(x.namespace) AS name FROM usage_ledger AS x WHERE x.namespace > n.name UNION ALL SELECT min(x.namespace) AS name FROM usage_records AS x WHERE x.namespace > n.name) AS f)
          FROM namespaces AS n WHERE n.name IS NOT NULL
    ), times (namespace, since, until) AS (
        SELECT n.name, coalesce((t.days_until || 'T00:00:00.000000Z'), ''), 'a'
          FROM namespaces AS n LEFT JOIN usage_rollup_state AS t ON t.namespace = n.name WHERE n.name IS NOT NULL
         UNION ALL
        SELECT DISTINCT c.namespace, (c.part || 'T00:00:00.000000Z'),
               (date(c.part, '+1 day') || 'T00:00:00.000000Z')
          FROM usage_rollup_changes AS c JOIN usage_rollup_state AS t ON t.namespace = c.namespace
         WHERE c.kind = 'day' AND c.part < t.days_until
    )
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
      FROM times AS o CROSS JOIN history_entries AS h ON h.namespace = o.namespace AND h.created_at >= o.since AND h.created_at < o.until
      JOIN sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
     WHERE h.usage_folded = 0
     UNION ALL
    SELECT l.namespace, l.bucket_at, substr(l.bucket_at, 1, 10), l.session_id, l.user_id, l.agent_name, l.provider_name,
           l.model, l.tool_name, l.entries, l.turns, l.model_calls, l.tool_calls, l.errors, l.input_tokens, l.output_tokens,
           l.cache_read_input_tokens, l.cache_write_input_tokens, l.reasoning_output_tokens, l.cost_usd, l.unpriced_calls,
           l.duration_ms, l.content_bytes, NULL
      FROM times AS o CROSS JOIN usage_ledger AS l ON l.namespace = o.namespace AND l.bucket_at >= o.since AND l.bucket_at < o.until
     UNION ALL
    SELECT r.namespace, r.created_at, substr(r.created_at, 1, 10), r.session_id, r.user_id, r.agent_name, r.provider_name, r.model, r.tool_name,
           0, 0,
           CASE WHEN r.input_tokens IS NOT NULL OR r.output_tokens IS NOT NULL THEN 1 ELSE 0 END,
           CASE WHEN r.tool_name IS NOT NULL THEN 1 ELSE 0 END,
           CASE WHEN r.error_type IS NOT NULL THEN 1 ELSE 0 END,
           coalesce(r.input_tokens, 0), coalesce(r.output_tokens, 0), coalesce(r.cache_read_input_tokens, 0),
           coalesce(r.cache_write_input_tokens, 0), coalesce(r.reasoning_output_tokens, 0), r.cost_usd,
           CASE WHEN r.cost_usd IS NULL AND (r.input_tokens IS NOT NULL OR r.output_tokens IS NOT NULL) THEN 1 ELSE 0 END,
           coalesce(r.duration_ms, 0), 0, r.duration_ms
      FROM times AS o CROSS JOIN usage_records AS r ON r.namespace = o.namespace AND r.created_at >= o.since AND r.created_at < o.until;
CREATE VIEW usage_by_day AS
    SELECT r.namespace, r.first_day AS day, r.sessions, r.entries, r.turns, r.model_calls, r.tool_calls, r.errors, r.input_tokens, r.output_tokens, r.cache_read_input_tokens, r.cache_write_input_tokens, r.reasoning_output_tokens, round(r.cost_usd + r.cost_fraction / 1e10, 10) AS cost_usd, r.unpriced_calls, r.duration_us / CAST(1000 AS double precision) AS duration_ms, r.content_bytes, r.timed_entries, r.latency_p50_ms, r.latency_p95_ms
      FROM usage_rollup AS r JOIN usage_rollup_state AS t ON t.namespace = r.namespace
     WHERE r.kind = 'day' AND r.first_day < t.days_until
       AND NOT EXISTS (SELECT 1 FROM usage_rollup_changes AS c
            WHERE c.namespace = r.namespace AND c.kind = 'day' AND c.part = r.part)
     UNION ALL
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
              FROM usage_unsummed_lines)
     GROUP BY namespace, day;
CREATE VIEW usage_by_user AS
    SELECT r.namespace, r.first_day AS day, r.user_id, r.sessions, r.entries, r.turns, r.model_calls, r.tool_calls, r.errors, r.input_tokens, r.output_tokens, r.cache_read_input_tokens, r.cache_write_input_tokens, r.reasoning_output_tokens, round(r.cost_usd + r.cost_fraction / 1e10, 10) AS cost_usd, r.unpriced_calls, r.duration_us / CAST(1000 AS double precision) AS duration_ms, r.content_bytes, r.timed_entries, r.latency_p50_ms, r.latency_p95_ms
      FROM usage_rollup AS r JOIN usage_rollup_state AS t ON t.namespace = r.namespace
     WHERE r.kind = 'user' AND r.first_day < t.days_until
       AND NOT EXISTS (SELECT 1 FROM usage_rollup_changes AS c
            WHERE c.namespace = r.namespace AND c.kind = 'day' AND c.part = r.part)
     UNION ALL
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
              FROM usage_unsummed_lines)
     GROUP BY namespace, day, user_id;
CREATE VIEW usage_by_agent AS
    SELECT r.namespace, r.first_day AS day, r.agent_name, r.sessions, r.entries, r.turns, r.model_calls, r.tool_calls, r.errors, r.input_tokens, r.output_tokens, r.cache_read_input_tokens, r.cache_write_input_tokens, r.reasoning_output_tokens, round(r.cost_usd + r.cost_fraction / 1e10, 10) AS cost_usd, r.unpriced_calls, r.duration_us / CAST(1000 AS double precision) AS duration_ms, r.content_bytes, r.timed_entries, r.latency_p50_ms, r.latency_p95_ms
      FROM usage_rollup AS r JOIN usage_rollup_state AS t ON t.namespace = r.namespace
     WHERE r.kind = 'agent' AND r.first_day < t.days_until
       AND NOT EXISTS (SELECT 1 FROM usage_rollup_changes AS c
            WHERE c.namespace = r.namespace AND c.kind = 'day' AND c.part = r.part)
     UNION ALL
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
              FROM usage_unsummed_lines)
     GROUP BY namespace, day, agent_name;
CREATE VIEW usage_by_model AS
    SELECT r.namespace, r.first_day AS day, r.provider_name, r.model, r.sessions, r.entries, r.turns, r.model_calls, r.tool_calls, r.errors, r.input_tokens, r.output_tokens, r.cache_read_input_tokens, r.cache_write_input_tokens, r.reasoning_output_tokens, round(r.cost_usd + r.cost_fraction / 1e10, 10) AS cost_usd, r.unpriced_calls, r.duration_us / CAST(1000 AS double precision) AS duration_ms, r.content_bytes, r.timed_entries, r.latency_p50_ms, r.latency_p95_ms
      FROM usage_rollup AS r JOIN usage_rollup_state AS t ON t.namespace = r.namespace
     WHERE r.kind = 'model' AND r.first_day < t.days_until
       AND NOT EXISTS (SELECT 1 FROM usage_rollup_changes AS c
            WHERE c.namespace = r.namespace AND c.kind = 'day' AND c.part = r.part)
     UNION ALL
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
              FROM usage_unsummed_lines)
     GROUP BY namespace, day, provider_name, model;
CREATE VIEW usage_by_tool AS
    SELECT r.namespace, r.first_day AS day, r.tool_name, r.sessions, r.entries, r.turns, r.model_calls, r.tool_calls, r.errors, r.input_tokens, r.output_tokens, r.cache_read_input_tokens, r.cache_write_input_tokens, r.reasoning_output_tokens, round(r.cost_usd + r.cost_fraction / 1e10, 10) AS cost_usd, r.unpriced_calls, r.duration_us / CAST(1000 AS double precision) AS duration_ms, r.content_bytes, r.timed_entries, r.latency_p50_ms, r.latency_p95_ms
      FROM usage_rollup AS r JOIN usage_rollup_state AS t ON t.namespace = r.namespace
     WHERE r.kind = 'tool' AND r.first_day < t.days_until
       AND NOT EXISTS (SELECT 1 FROM usage_rollup_changes AS c
            WHERE c.namespace = r.namespace AND c.kind = 'day' AND c.part = r.part)
     UNION ALL
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
              FROM usage_unsummed_lines)
     GROUP BY namespace, day, tool_name;
CREATE TRIGGER usage_rollup_insert_history_entries AFTER INSERT ON history_entries
                WHEN NEW.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = NEW.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (NEW.namespace, 'session', coalesce(NEW.session_id, ''), 0),
                    (NEW.namespace, 'day', substr(NEW.created_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_update_history_entries AFTER UPDATE ON history_entries
                WHEN OLD.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = OLD.namespace) OR NEW.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = NEW.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (OLD.namespace, 'session', coalesce(OLD.session_id, ''), 0),
                    (OLD.namespace, 'day', substr(OLD.created_at, 1, 10), 0) ON CONFLICT DO NOTHING;
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (NEW.namespace, 'session', coalesce(NEW.session_id, ''), 0),
                    (NEW.namespace, 'day', substr(NEW.created_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_delete_history_entries AFTER DELETE ON history_entries
                WHEN OLD.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = OLD.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (OLD.namespace, 'session', coalesce(OLD.session_id, ''), 0),
                    (OLD.namespace, 'day', substr(OLD.created_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_insert_usage_records AFTER INSERT ON usage_records
                WHEN NEW.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = NEW.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (NEW.namespace, 'session', coalesce(NEW.session_id, ''), 0),
                    (NEW.namespace, 'day', substr(NEW.created_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_update_usage_records AFTER UPDATE ON usage_records
                WHEN OLD.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = OLD.namespace) OR NEW.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = NEW.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (OLD.namespace, 'session', coalesce(OLD.session_id, ''), 0),
                    (OLD.namespace, 'day', substr(OLD.created_at, 1, 10), 0) ON CONFLICT DO NOTHING;
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (NEW.namespace, 'session', coalesce(NEW.session_id, ''), 0),
                    (NEW.namespace, 'day', substr(NEW.created_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_delete_usage_records AFTER DELETE ON usage_records
                WHEN OLD.created_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = OLD.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (OLD.namespace, 'session', coalesce(OLD.session_id, ''), 0),
                    (OLD.namespace, 'day', substr(OLD.created_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_insert_usage_ledger AFTER INSERT ON usage_ledger
                WHEN NEW.bucket_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = NEW.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (NEW.namespace, 'session', coalesce(NEW.session_id, ''), 0),
                    (NEW.namespace, 'day', substr(NEW.bucket_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_update_usage_ledger AFTER UPDATE ON usage_ledger
                WHEN OLD.bucket_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = OLD.namespace) OR NEW.bucket_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = NEW.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (OLD.namespace, 'session', coalesce(OLD.session_id, ''), 0),
                    (OLD.namespace, 'day', substr(OLD.bucket_at, 1, 10), 0) ON CONFLICT DO NOTHING;
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (NEW.namespace, 'session', coalesce(NEW.session_id, ''), 0),
                    (NEW.namespace, 'day', substr(NEW.bucket_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_delete_usage_ledger AFTER DELETE ON usage_ledger
                WHEN OLD.bucket_at < (SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = OLD.namespace) BEGIN
                INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) VALUES (OLD.namespace, 'session', coalesce(OLD.session_id, ''), 0),
                    (OLD.namespace, 'day', substr(OLD.bucket_at, 1, 10), 0) ON CONFLICT DO NOTHING; END;
CREATE TRIGGER usage_rollup_update_sessions AFTER UPDATE OF user_id, agent_name ON sessions
        WHEN OLD.user_id IS NOT NEW.user_id OR OLD.agent_name IS NOT NEW.agent_name BEGIN
            INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) SELECT t.namespace, 'session', NEW.session_id, 0 FROM usage_rollup_state AS t
                WHERE t.namespace = NEW.namespace ON CONFLICT DO NOTHING;
            INSERT INTO usage_rollup_changes (namespace, kind, part, change_id) SELECT DISTINCT h.namespace, 'day', substr(h.created_at, 1, 10), 0 FROM history_entries AS h
                WHERE h.namespace = NEW.namespace AND h.session_id = NEW.session_id ON CONFLICT DO NOTHING;
        END;
CREATE INDEX ix_sessions_namespace_active_hour ON sessions (namespace, active_hour);
CREATE INDEX ix_sessions_namespace_created_at ON sessions (namespace, created_at);
CREATE INDEX ix_sessions_root_session_id_namespace ON sessions (root_session_id, namespace) WHERE root_session_id <> session_id;
COMMIT;
