"""PgBouncer in transaction mode: each transaction may come to another connection of the server."""

from datetime import timedelta

from tests.faults.bench import Bench
from tests.faults.clients import Crowd
from tests.faults.journal import Journal
from tests.faults.table import Missing, Tally, fault
from tests.support.pgbouncer import PgBouncer, prepares, program


@fault(
    "PgBouncer", databases=("postgresql",), short=40, long=4000, control="prepared_statements=True", control_rounds=400
)
def behind_pgbouncer(bench: Bench) -> Tally:
    """Nothing is said about the pooler: the store finds out, and its timeouts work. A round is a call."""
    if program() is None:
        raise Missing("pgbouncer (Debian's package pgbouncer)")
    if bench.unsafe and prepares():
        raise Missing("a PgBouncer before 1.21, which does not know of prepared statements")
    url = bench.url()
    through = bench.stack.enter_context(PgBouncer(bench.server)).url(url)
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
