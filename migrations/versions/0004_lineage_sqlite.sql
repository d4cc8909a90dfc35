-- session_lineage: a row for each living session: which session it was forked from, how deep below the first one, and how
-- much of its history is its own. Whatever the rows say it ends: UNION drops a session that was met before, so a cycle is
-- gone through once. It begins with the session that it is for, so that a condition on the namespace leaves out all
-- others; a walk that begins with all sessions goes through those of everybody first.
--   parent_session_id   NULL for one that is no fork; the parent may be gone
--   root_session_id     where the line of forks began
--   forked_at_seq       the last position that it shares with its parent
--   depth               how many forks lead to it, as far as the sessions between are there
--   forks               living sessions forked directly from it
--   entries             entries that it sees
--   own_entries         of them, those whose rows it owns
CREATE VIEW {s}session_lineage AS
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
                     FROM up JOIN {s}sessions AS p ON p.namespace = s.namespace AND p.session_id = up.parent_session_id
                      AND p.created_at <= up.created_at
               )
               SELECT count(up.parent_session_id) FROM up) END AS depth,
           (SELECT count(*) FROM {s}sessions AS f
             WHERE f.namespace = s.namespace AND f.parent_session_id = s.session_id AND f.created_at >= s.created_at
               AND (f.expires_at IS NULL OR f.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))) AS forks,
           s.next_seq - s.first_seq AS entries,
           s.next_seq - s.first_seq - coalesce((
               SELECT sum(g.to_seq - g.from_seq + 1) FROM {s}session_segments AS g
                WHERE g.namespace = s.namespace AND g.session_id = s.session_id), 0) AS own_entries,
           s.created_at
      FROM {s}sessions AS s
     WHERE (s.expires_at IS NULL OR s.expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'));
