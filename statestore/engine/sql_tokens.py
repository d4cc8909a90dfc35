"""What the tokens of statements that enclose something become; see `Statement`."""


# SQLite has no arithmetic on times with microseconds, so it is done on integers: :now_us is :now since 1970.
def later_sqlite(duration: str) -> str:
    total = f"(:now_us + ({duration}))"
    return f"(strftime('%Y-%m-%dT%H:%M:%S', {total} / 1000000, 'unixepoch') || printf('.%06dZ', {total} % 1000000))"


def size_postgresql(value: str) -> str:
    return f"coalesce(octet_length(CAST({value} AS text)), 0)"


# SQLite has octet_length from 3.43 on.
def size_sqlite(value: str) -> str:
    return f"coalesce(length(CAST({value} AS blob)), 0)"


def time_postgresql(parameter: str) -> str:
    return f"CAST({parameter} AS timestamptz)"


def pinned(alias: str) -> str:
    return f" AND {alias}.namespace = :namespace"


def unpinned(alias: str) -> str:
    return ""


def member_postgresql(parameter: str) -> str:
    return f"= ANY ({parameter})"


def member_sqlite(parameter: str) -> str:
    return f"IN (SELECT value FROM json_each({parameter}))"
