"""When a session lives, as SQL on its row `s`: `$live` in statements."""

_NOT_EXPIRED = "({0}.expires_at IS NULL OR {0}.expires_at > $now)"

# A part has no TTL of its own, and lives as long as what it is a part of, which is never a part itself. A scalar
# subquery and not EXISTS: for that PostgreSQL also plans to read all sessions, and takes the plan for an expensive one.
LIVE_SESSION = f"""({_NOT_EXPIRED.format("s")} AND (s.belongs_to IS NULL OR coalesce((
        SELECT {_NOT_EXPIRED.format("whole")} FROM $sessions AS whole
        WHERE whole.namespace = :namespace AND whole.session_id = s.belongs_to), false)))"""
LIVE_ANYWHERE = LIVE_SESSION.replace("whole.namespace = :namespace", "whole.namespace = s.namespace")
"""The same of sessions of several namespaces."""
