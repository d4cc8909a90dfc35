"""A Citus cluster that somebody else runs, for the contract tests: STATESTORE_TEST_CITUS_URL names its coordinator.

The tests of PostgreSQL run there, each on a distributed schema of its own. That takes a superuser's URL and the
extension in the database that it names, whose coordinator knows the other servers.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
from psycopg import sql
from sqlalchemy import URL

from tests.postgres import PostgresServer

# Of each table. Every shard is a file, and each test copies them all.
SHARDS = 2


class CitusCluster(PostgresServer):
    """Its databases are on all servers, each a copy of what the same server has."""

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        with psycopg.connect(super().url(url.database or "postgres")) as connection:
            nodes = connection.execute(
                "SELECT nodename, nodeport, groupid = 0 FROM pg_dist_node WHERE isactive ORDER BY groupid"
            ).fetchall()
        self._nodes = [(name, port) for name, port, _ in nodes]
        self._coordinator = next((name, port) for name, port, coordinates in nodes if coordinates)
        self._workers = [
            PostgresServer(self._url.set(host=name, port=port)) for name, port, first in nodes if not first
        ]

    def create_database(self, name: str, template: str | None = None) -> None:
        others = (partial(server.create_database, name, template) for server in self._workers)
        _at_once(partial(super().create_database, name, template), *others)

    def drop_database(self, name: str) -> None:
        # Citus connects to it again by itself, here, and from here to the others.
        for left in range(4, -1, -1):
            try:
                super().drop_database(name)
            except psycopg.errors.ObjectInUse:
                if not left:
                    raise
            else:
                break
        _at_once(*(partial(server.drop_database, name) for server in self._workers))

    def stop(self) -> None:
        super().stop()
        for server in self._workers:
            server.stop()

    def connect_nodes(self, name: str) -> None:
        """Let the servers know each other in a database."""
        for server in (self, *self._workers):
            with psycopg.connect(server.url(name), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION citus")
        # Adding a server writes the roles of all of it: one process after the other.
        with (
            psycopg.connect(self._url.render_as_string(hide_password=False)) as lock,
            psycopg.connect(self.url(name), autocommit=True) as connection,
        ):
            lock.execute("SELECT pg_advisory_xact_lock(hashtext('citus_add_node'))")
            connection.execute("SELECT citus_set_coordinator_host(%s, %s)", self._coordinator)
            for node in self._nodes:
                if node != self._coordinator:
                    connection.execute("SELECT citus_add_node(%s, %s)", node)

    def distribute(self, name: str) -> None:
        """Distribute the schema of a database, and let it be copied: nobody may be connected to it then."""
        from statestore.migrate import distribute

        self.connect_nodes(name)
        distribute(f"{self.url(name)}?options=-c%20citus.shard_count%3D{SHARDS}")
        for server in (self, *self._workers):
            server._execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
            server._execute(
                sql.SQL("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = {}").format(name)
            )


def _at_once(*calls: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()
