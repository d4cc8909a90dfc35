"""The partitioned copy of a table, from the first row to the swap; see `statestore.partitioning`."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from statestore import migrate
from statestore.errors import SchemaError, UnavailableError
from statestore.schema import partition_sql, partitions

R = TypeVar("R")

# A batch: blocks of 8 KB, and keys that were noted. Each is a transaction of some tens of milliseconds.
BLOCKS = 256
KEYS = 5000
MOST_KEYS = 100_000
# Lines of progress come at most so often.
SECONDS = 2.0

# Lock timeout, deadlock, serialization: what a transaction may be repeated for.
_PASSING = ("55P03", "40P01", "40001")


@dataclass(frozen=True, slots=True)
class Polling:
    """For how long what does not get its locks is repeated."""

    lock_timeout: timedelta
    wait: timedelta

    def set_timeouts(self, connection: Connection) -> None:
        """For the rest of the transaction: statements may take their time, waiting for a lock may not."""
        milliseconds = round(self.lock_timeout.total_seconds() * 1000)
        connection.exec_driver_sql(partition_sql.SET_TIMEOUTS, {"lock_timeout": f"{milliseconds}ms"})

    def until(self, attempt: Callable[[], bool], problem: str) -> None:
        """Repeat an attempt until it succeeds, or for too long."""
        deadline = time.monotonic() + self.wait.total_seconds()
        while not attempt():
            if time.monotonic() > deadline:
                raise UnavailableError(f"{problem}, and it took longer than {self.wait}; try again later")
            time.sleep(random.uniform(0.05, 0.3))


class Copy:
    """A table of a schema, and its copy."""

    def __init__(
        self,
        connection: Connection,
        schema: str,
        table: str,
        polling: Polling | None = None,
        progress: migrate.Progress = lambda line: None,
    ) -> None:
        self._connection = connection
        self._polling = polling or Polling(migrate.LOCK_TIMEOUT, migrate.WAIT)
        self._progress = progress
        self._told = 0.0
        self._schema = schema
        self._table = table
        self._sql = partition_sql.Names(schema, table)

    def state(self, planned: int) -> dict[str, Any]:
        """How far it has come, by the names of `TablePartitions`. In the caller's transaction."""
        found = partitions.read(self._connection, self._schema).get(self._table)
        position = self._position()
        state = "plain" if position is None else "copying"
        if found is not None:
            planned = len(found.partitions)
            state = "partitioned" if position is None else "finishing"
        elif position is not None:
            planned = position["partitions"]
        rows, size = self._row(partition_sql.SIZE)
        problems: tuple[str, ...] = ()
        if found is None:
            facts = {"key": partitions.KEYS[self._table], "ours": partition_sql.FOREIGN_KEYS}
            problems = tuple(problem for (problem,) in self._all(partition_sql.PROBLEMS, **facts))
        if found is None and position is None:
            problems += tuple(
                f"there is a table {name} already"
                for (name,) in self._all(partition_sql.TAKEN, pattern=self._sql.pattern)
            )
        return {
            **{"table": self._table, "by": partitions.KEYS[self._table], "partitions": planned, "state": state},
            **{"rows": rows, "bytes": size, "problems": problems},
        }

    def make(self, planned: int) -> None:
        """Partition the table, from wherever it has come to."""
        with self._transaction():
            found = partitions.read(self._connection, self._schema).get(self._table)
            position = self._position()
            # It may have been begun for another number, or the table may have changed since.
            goes_on = found is None and position is not None and self._fits(position, planned)
        if found is None:
            if position is not None and not goes_on:
                self._tell(
                    f"{self._table}: dropping the unfinished copy of {position['partitions']} partitions: "
                    "another number was asked for, or the table has been altered since",
                    at_once=True,
                )
                self.drop()
                position = None
            if position is None:
                self._tell(f"making {planned} partitions of {self._table}", at_once=True)
                self._in_transaction(lambda: self._run(self._sql.make(planned, self._facts())))
                position = self._position_now()
            if position["next_block"] is None:
                self._in_transaction(lambda: self._run(self._sql.note_changes()))
            self._copy()
            self._tell(f"{self._table}: comparing the copy with the table", at_once=True)
            self._compare()
            self._in_transaction(lambda: self._run([f"ANALYZE {self._sql.copy}"]))
            self._tell(f"{self._table}: swapping", at_once=True)
            taken = KEYS
            while self._catch_up(taken) == taken:
                taken = min(2 * taken, MOST_KEYS)  # Somebody writes as fast as they are taken.
            self._in_transaction(self._swap)
            position = self._position_now()
        if position is None:
            self._tell(f"{self._table} is partitioned already", at_once=True)
            return
        self._finish()
        self._tell(f"{self._table} has {planned} partitions", at_once=True)

    def drop(self) -> bool:
        """Drop the copy, if there is one that has not become the table."""
        with self._transaction():
            found = partitions.read(self._connection, self._schema).get(self._table)
            if found is not None or self._position() is None:
                return False
        self._in_transaction(lambda: self._run(self._sql.drop()))
        return True

    # Copying

    def _copy(self) -> None:
        """Copy the blocks of the table that there were when changes began to be noted."""
        at_hand = True
        while at_hand:
            at_hand = self._in_transaction(self._copy_blocks)
            self._catch_up(KEYS)

    def _copy_blocks(self) -> bool:
        self._run([f"LOCK TABLE {self._sql.table} IN ACCESS SHARE MODE"])
        position = self._position()
        assert position is not None
        begin, end, filenode = position["next_block"], position["end_block"], position["filenode"]
        now, blocks = self._row(partition_sql.STORAGE)
        if now != filenode:
            # VACUUM FULL or CLUSTER has put the rows elsewhere: begin again, over what is there.
            begin, end = 0, blocks
        next_block = min(begin + BLOCKS, end)
        copied = self._connection.exec_driver_sql(self._sql.copy_blocks(begin, next_block)).rowcount
        self._run([self._sql.note_position(now, next_block, end, copied)])
        share = 100 if not end else next_block * 100 // end
        self._tell(f"{self._table}: copied {share} %, {position['copied'] + copied:,} rows")
        return bool(next_block < end)

    def _catch_up(self, most: int) -> int:
        """Bring rows up to date that were written since they were copied, some of them. How many notes were taken."""
        return self._in_transaction(partial(self._follow_notes, most))

    def _follow_notes(self, most: int) -> int:
        notes = self._connection.exec_driver_sql(self._sql.take_notes(most)).all()
        if notes:
            # Only now, in statements of their own: a note that was visible is of a change that is visible to them.
            keys = list(dict.fromkeys(tuple(note) for note in notes))
            arrays = {f"key_{number}": list(column) for number, column in enumerate(zip(*keys, strict=True))}
            for statement in self._sql.bring_up_to_date():
                self._connection.exec_driver_sql(statement, arrays)
        return len(notes)

    def _compare(self) -> None:
        """Refuse to go on if the copy differs, other than by what has been noted since."""
        theirs, ours = self._in_transaction(lambda: self._connection.exec_driver_sql(self._sql.compare()).all())
        if tuple(theirs[:2]) != tuple(ours[:2]):
            problem = f"{theirs[0]:,} rows, of which the copy has {ours[0]:,}, or with other values"
            raise SchemaError(
                f"{self._table} has {problem}; the table stays in use. Were triggers disabled meanwhile? Drop the "
                "copy with statestore migrate partition --cancel, and begin again"
            )

    # The swap, and what comes after it

    def _swap(self) -> None:
        views = [(name, definition, options) for name, definition, options in self._all(partition_sql.VIEWS)]
        # Readers lock a view before its tables. So it is locked first, by being replaced by itself.
        self._run(self._sql.views(views))
        self._run(self._sql.lock())
        if not self._columns_agree():
            raise SchemaError(f"{self._table} was altered while it was being partitioned; begin again")
        while self._follow_notes(MOST_KEYS):
            pass
        indexes = [name for name, *_ in self._all(partition_sql.INDEXES)]
        afterwards = [made for which in (partition_sql.GRANTS, partition_sql.TRIGGERS) for (made,) in self._all(which)]
        names = [partition for (partition,) in self._all(partition_sql.PARTITIONS, table=self._sql.copy)]
        self._run(self._sql.swap(views, indexes, afterwards, names))

    def _finish(self) -> None:
        """Validate the foreign keys that hold for new rows already, a partition at a time."""
        with self._transaction():
            found = partitions.read(self._connection, self._schema)[self._table]
        for statement in self._sql.validate([partition.name for partition in found.partitions]):
            self._in_transaction(partial(self._run, [statement]))
        self._in_transaction(lambda: self._run(self._sql.finish()))

    # What the rest is made of

    def _position(self) -> dict[str, Any] | None:
        if not partitions.is_unfinished(self._connection, self._schema):
            return None
        row = self._connection.exec_driver_sql(self._sql.position()).mappings().one_or_none()
        return None if row is None else dict(row)

    def _position_now(self) -> Any:
        with self._transaction():
            return self._position()

    def _fits(self, position: dict[str, Any], planned: int) -> bool:
        return position["partitions"] == planned and self._columns_agree()

    def _columns_agree(self) -> bool:
        return bool(self._row(partition_sql.COLUMNS_AGREE, copy=self._sql.copy)[0])

    def _facts(self) -> partition_sql.Facts:
        """What the copy is to take over from the table."""
        owner, options, comment = self._row(partition_sql.OWNER)
        indexes = [
            (name, unique, how, constraint) for name, unique, how, constraint in self._all(partition_sql.INDEXES)
        ]
        return partition_sql.Facts(owner, options, comment, indexes)

    def _all(self, statement: str, **params: Any) -> Sequence[Any]:
        params = {"table": self._sql.table, "schema": self._schema, "name": self._table} | params
        return self._connection.exec_driver_sql(statement, params).all()

    def _row(self, statement: str, **params: Any) -> Any:
        return self._all(statement, **params)[0]

    def _run(self, statements: Sequence[str]) -> None:
        for statement in statements:
            self._connection.exec_driver_sql(statement.replace("%", "%%"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection.begin():
            self._polling.set_timeouts(self._connection)
            yield

    def _in_transaction(self, work: Callable[[], R]) -> R:
        """Do it in a transaction, and again if it did not get a lock."""
        done: list[R] = []

        def attempt() -> bool:
            try:
                with self._transaction():
                    done.append(work())
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _PASSING:
                    raise
                done.clear()
            return bool(done)

        self._polling.until(attempt, f"others hold locks on {self._table}")
        return done[0]

    def _tell(self, line: str, *, at_once: bool = False) -> None:
        if at_once or time.monotonic() - self._told >= SECONDS:
            self._told = time.monotonic()
            self._progress(line)
