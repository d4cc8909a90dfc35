"""Processes that are killed: the server, one of its backends, a client."""

import random
import time

import psycopg

from tests.faults.bench import Bench, kill_server, start_again
from tests.faults.clients import Crowd
from tests.faults.journal import Journal
from tests.faults.processes import Writers
from tests.faults.table import Tally, fault

# Kept from a commit until it is killed, unless the commit waits for it.
LAZY = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}


@fault(
    "server killed", databases=("postgresql",), short=1, long=200, control="synchronous_commit = off",
    control_rounds=4, limit=900,
)  # fmt: skip
def server_killed(bench: Bench) -> Tally:
    """Every second time the first process is killed outright, else all are told to stop at once."""
    server = bench.own_server(synchronous_commit="on", **LAZY)
    url = bench.url(server)
    if bench.unsafe:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {admin.info.dbname} SET synchronous_commit = off")
    store = bench.open(url)
    journal = Journal()
    crowd = Crowd(store, journal, bench.heartbeat)
    crowd.prepare()
    crowd.start()
    for number in bench.each_round():
        crowd.wait_for(random.randrange(5, 60))
        time.sleep(random.random() * 0.05)
        if number % 2 == 0:
            kill_server(server)
            start_again(server)
        else:
            server.restart("immediate")
    crowd.wait_for(10)
    crowd.stop()
    tally = journal.settle(bench.open(url), url=url)
    tally.rounds = bench.rounds
    return tally


@fault(
    "one backend killed", databases=("postgresql",), short=8, long=400,
    control="errors taken for success", control_rounds=100,
)  # fmt: skip
def backend_killed(bench: Bench) -> Tally:
    """`pg_terminate_backend` on one connection of the store, while it writes."""
    url = bench.url()
    store = bench.open(url)
    journal = Journal()
    crowd = Crowd(store, journal, bench.heartbeat, blind="done" if bench.unsafe else "")
    crowd.prepare()
    crowd.start()
    with psycopg.connect(url, autocommit=True) as admin:
        for _ in bench.each_round():
            crowd.wait_for(3)
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' LIMIT 1"
            )
    crowd.wait_for(10)
    crowd.stop()
    tally = journal.settle(store, url=url)
    tally.rounds = bench.rounds
    return tally


@fault(
    "client killed", short=2, long={"sqlite": 500, "postgresql": 200},
    control="acknowledged before the commit", control_rounds=6,
)  # fmt: skip
def client_killed(bench: Bench) -> Tally:
    """SIGKILL for a process with four writers, of which two run at a time, at any moment."""
    url = bench.url()
    journal = Journal()
    with Writers(journal) as writers:
        running = [writers.start(url, bench.world, f"p{number}", early=bench.unsafe) for number in range(2)]
        for number in bench.each_round():
            victim = running.pop(0)
            victim.wait_until_writing()
            time.sleep(random.random() * 0.08)
            victim.kill()
            running.append(writers.start(url, bench.world, f"p{number + 2}", early=bench.unsafe))
        for writer in running:
            writer.wait_until_writing()
            writer.kill()
    tally = journal.settle(bench.open(url), url=url)
    tally.rounds = bench.rounds
    return tally
