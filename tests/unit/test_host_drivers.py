"""What is made of the results of drivers that only join."""

from types import SimpleNamespace

from statestore.engine.host_drivers import Psycopg2Cursor


def test_binary_data_of_psycopg2_are_bytes() -> None:
    """It hands out views of memory, which compare equal to bytes and are none."""
    rows = [(1, memoryview(b"\0x")), (2, None)]
    cursor = Psycopg2Cursor(SimpleNamespace(description=[("n", 23), ("value", 17)], fetchall=lambda: rows))
    assert [[type(value) for value in row] for row in cursor.fetchall()] == [[int, bytes], [int, type(None)]]
