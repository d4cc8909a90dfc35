"""The servers of the guides under load, while a worker is killed and the server reloads: nothing is lost or wrong."""

import http.client
import json
import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from statestore import StateStore
from tests.docs.pages import CHECKOUT, blocks
from tests.support.servers import AMPLE, Server, free_port, running

Celery = pytest.importorskip("celery").Celery
pytest.importorskip("uvicorn_worker")

FASTAPI = CHECKOUT / "docs" / "guides" / "fastapi.md"
WORKERS = CHECKOUT / "docs" / "guides" / "workers.md"
CLIENTS = 24
WORK = 144  # All that the clients ask for, together.

# What the guide leaves to its reader: a model, whose answer shows what it was asked.
MODEL = """
import asyncio


async def model(messages):
    for word in f"You asked: {messages[-1]['content']}".split(" "):
        await asyncio.sleep(0.004)
        yield f"{word} "
"""


def under_load(server: Server, ask: Callable[[int], None]) -> None:
    """Ask for all the work from many clients; kill a worker after a third of it, and reload after two thirds."""
    tasks, answered = iter(range(WORK)), []

    def client() -> None:
        for n in tasks:
            ask(n)
            answered.append(n)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]

        def so_much(thirds: int) -> Callable[[], bool]:
            return lambda: len(answered) > WORK * thirds // 3 or any(c.done() for c in clients)

        server.wait_for(so_much(1))
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        server.wait_for(so_much(2))
        assert len(answered) < WORK, "there was no load"
        server.send(signal.SIGHUP)
        for running_client in clients:
            running_client.result(AMPLE)
    server.wait_for(lambda: len(server.workers()) == 4 and not {*server.workers()} & {*before})


class Web:
    """A client of a server, whose requests may break off."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.broken = 0

    def ask(self, method: str, path: str, body: Any = None, *, seen: Callable[[], object] = lambda: None) -> str:
        """What was answered; *seen* is called as soon as the answer begins."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=AMPLE)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            seen()
            return response.read().decode()
        finally:
            connection.close()

    def ask_and_leave(self, path: str, body: Any) -> None:
        """Close the connection as soon as something was said."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=AMPLE)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        assert connection.getresponse().read(4) == b"You "
        connection.close()

    def insist(self, request: Callable[[int], str]) -> str:
        for attempt in count():
            try:
                return request(attempt)
            except (ConnectionError, http.client.HTTPException):
                self.broken += 1
                assert attempt < 20
        raise AssertionError


@contextmanager
def gunicorn(page: Path, code: str, folder: Path, url: str) -> Iterator[tuple[Server, Web]]:
    """The command of the guide on the code of the guide."""
    (folder / "app.py").write_text(code)
    [command] = [block for block in blocks(page, "text") if block.startswith("gunicorn ")]
    port = free_port()
    options = (f"--bind=127.0.0.1:{port}", "--no-control-socket")
    with running(*shlex.split(command), *options, folder=folder, STATESTORE_URL=url) as server:

        def up() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=AMPLE)
            try:
                connection.connect()
            except OSError:
                return False
            connection.close()
            return len(server.workers()) == 4

        server.wait_for(up)
        yield server, Web(port)


def test_fastapi_streams_to_many_clients_while_workers_die(database_url: str, tmp_path: Path) -> None:
    [code] = blocks(FASTAPI, "python")
    asked: Counter[str] = Counter()  # What the server has begun to answer: the question is stored.
    told: Counter[str] = Counter()  # What it has answered to the end: the answer is stored.
    with gunicorn(FASTAPI, code + MODEL, tmp_path, database_url) as (server, web):

        def ask(n: int) -> None:
            def request(attempt: int) -> str:
                question = f"n{n} a{attempt}"
                body = {"user": f"u{n % 2}", "text": question}
                answer = web.ask("POST", f"/chats/chat{n}", body, seen=lambda: asked.update([question]))
                assert answer == f"You asked: {question} "
                told.update([question])
                return answer

            web.insist(request)

        web.ask_and_leave("/chats/left", {"user": "u0", "text": "n a" * 2000})
        under_load(server, ask)
        [question, said] = json.loads(web.insist(lambda _: web.ask("GET", "/chats/u0/left")))
        assert said["role"] == "assistant"
        assert said["content"] != f"You asked: {question['content']} "
        assert f"You asked: {question['content']} ".startswith(said["content"])
        stored: list[dict[str, str]] = []
        for n in range(WORK):
            stored += json.loads(web.insist(lambda _, n=n: web.ask("GET", f"/chats/u{n % 2}/chat{n}")))  # type: ignore[misc]
    assert len(told) == WORK
    questions = Counter(message["content"] for message in stored if message["role"] == "user")
    answers = Counter(message["content"] for message in stored if message["role"] == "assistant")
    assert asked <= questions
    assert Counter(f"You asked: {question} " for question in told) <= answers
    assert {*questions.values(), *answers.values()} == {1}
    assert all(any(f"You asked: {q} ".startswith(answer) for q in questions) for answer in answers)
    assert len(questions) <= WORK + web.broken


def test_a_count_of_requests_is_given_once(postgres_url: str, tmp_path: Path) -> None:
    code = blocks(WORKERS, "python")[0]
    with gunicorn(WORKERS, code, tmp_path, postgres_url) as (server, web):
        counted: list[int] = []
        under_load(server, lambda _: counted.append(int(web.insist(lambda _: web.ask("GET", "/")))))
        counted.append(int(web.insist(lambda _: web.ask("GET", "/"))))
    assert len(counted) == len({*counted}) == WORK + 1
    assert counted[-1] == max(counted) <= WORK + 1 + web.broken


# A process that dies just before it works on a message, or just after it stored one and nobody knows. The pool's other
# processes must be none the wiser, so it does not die while it waits for work: with a broker of files it then has a
# lock of theirs.
DYING = """
import os
import signal
from celery.signals import task_postrun, task_prerun


def die_once(args, at):
    if args and int(args[1].removeprefix("id-")) % 72 == at:
        try:
            os.close(os.open(os.path.join(os.environ["HOME"], f"died-{args[1]}"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


@task_prerun.connect
def before(args, **_):
    die_once(args, 20)


@task_postrun.connect
def after(args, **_):
    die_once(args, 40)
"""


def test_tasks_of_celery_remember_each_message_once_while_workers_die(database_url: str, tmp_path: Path) -> None:
    code = "".join(block for block in blocks(WORKERS, "python") if "Celery(" in block or "@app.task" in block)
    (tmp_path / "queue").mkdir()
    folders = ("data_folder_in", "data_folder_out", "processed_folder", "control_folder")
    options = {folder: str(tmp_path / "queue") for folder in folders}
    settings = {"broker_transport_options": options, "worker_lost_wait": 0.1}  # Seconds, instead of ten.
    code = code.replace('broker="memory://")', f'broker="filesystem://", changes={settings})')
    (tmp_path / "tasks.py").write_text(code + DYING)
    [command] = [block for block in blocks(WORKERS, "text") if block.startswith("celery ")]
    sender = Celery(broker="filesystem://", changes=settings)
    for n in range(WORK):
        message = {"role": "user", "content": f"n{n}"}
        sender.send_task("tasks.remember", (f"chat-{n % CLIENTS}", f"id-{n}", message))
    sender.send_task("tasks.sweep")
    with (
        StateStore.open(database_url) as store,
        running(*shlex.split(command), folder=tmp_path, STATESTORE_URL=database_url) as server,
    ):
        server.wait_for(lambda: store.usage.totals().entries >= WORK and not [*(tmp_path / "queue").glob("*.msg")])
        stored = [entry for n in range(CLIENTS) for entry in store.history.read(f"chat-{n}")]
    assert {entry.entry_id for entry in stored} == {f"id-{n}" for n in range(WORK)}
    assert Counter(entry.content["content"] for entry in stored) == Counter(f"n{n}" for n in range(WORK))  # type: ignore[index,call-overload]
    assert len([*tmp_path.glob("died-*")]) == 2 * WORK // 72
