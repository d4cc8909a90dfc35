"""PgBouncer in transaction mode: each transaction may come to another connection of the server."""

import subprocess
import time
from datetime import timedelta

import psycopg
from sqlalchemy import make_url

from tests import postgres
from tests.faults.bench import Bench, need
from tests.faults.clients import Crowd
from tests.faults.journal import Journal
from tests.faults.table import Tally, fault

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 3
max_client_conn = 100
logfile = {log}
"""


def pgbouncer(bench: Bench, url: str) -> str:
    """Start one before the server, and return the URL that leads through it."""
    program = need("pgbouncer", "pgbouncer")
    server = make_url(url)
    folder = postgres.make_folder(bench.folder.parent)
    bench.stack.callback(subprocess.run, ["rm", "-rf", str(folder)], check=False)
    own_port = postgres.free_port()
    users, configuration = folder / "users", folder / "pgbouncer.ini"
    users.write_text(f'"{server.username}" ""\n')
    configuration.write_text(
        CONFIGURATION.format(
            host=server.host, port=server.port, user=server.username, password=server.password, own_port=own_port,
            users=users, log=folder / "log",
        )
    )  # fmt: skip
    for file in (users, configuration):
        postgres.hand_over(file)
    process = subprocess.Popen(
        [program, "-q", str(configuration)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, **postgres.unprivileged(),
    )  # fmt: skip

    def stop() -> None:
        process.kill()
        process.wait()

    bench.stack.callback(stop)
    through = server.set(host="127.0.0.1", port=own_port).render_as_string(False)
    until = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(through, connect_timeout=2).close()
            return through
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@fault(
    "PgBouncer", databases=("postgresql",), short=100, long=4000, control="prepared_statements=True", control_rounds=400
)
def behind_pgbouncer(bench: Bench) -> Tally:
    """Nothing is said about the pooler: the store finds out, and its timeouts work. A round is a call."""
    url = bench.url()
    through = pgbouncer(bench, url)
    options = {"prepared_statements": True} if bench.unsafe else {}
    timeouts = {"lock_timeout": timedelta(seconds=15), "statement_timeout": timedelta(seconds=15)}
    store = bench.open(through, pool_size=8, **options, **({} if bench.unsafe else timeouts))
    journal = Journal()
    crowd = Crowd(store, journal, bench.heartbeat, clients=8)
    crowd.prepare()
    crowd.start()
    crowd.wait_for(bench.rounds, seconds=20 + bench.rounds / 20)
    crowd.stop()
    tally = journal.settle(bench.open(url), url=url)
    tally.rounds = crowd.done
    return tally
