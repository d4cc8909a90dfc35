"""The session backend, beside Django's own tests."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import management
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

from statestore import InvalidValueError, LazyStore
from statestore.adapters import django as adapter
from statestore.adapters.django.sessions import OWNER, SessionStore
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

ROOT = Path(__file__).parents[3]
AMPLE = 60


@pytest.fixture
def moving(database_url: str, clock: MovableClock) -> Any:
    """Sessions whose store has the clock that the test moves."""
    with override_settings(STATESTORE_SESSIONS={"url": database_url, "clock": clock}):
        yield clock


def saved(**data: Any) -> Any:
    session = SessionStore()
    session.update(data)
    session.save()
    return session


def test_a_session_ends_when_django_says_and_reading_does_not_move_that(moving: MovableClock) -> None:
    session = saved(a=1)
    for _ in range(13):
        moving.advance(days=1)
        assert SessionStore(session.session_key)["a"] == 1
    moving.advance(days=1)
    gone = SessionStore(session.session_key)
    assert (dict(gone.items()), gone.session_key) == ({}, None)


def test_a_session_may_last_longer_than_a_store_can_keep_anything() -> None:
    session = SessionStore()
    session.set_expiry(10**10)
    session.save()
    assert SessionStore().exists(session.session_key)


def test_what_has_ended_is_swept_by_clearsessions(moving: MovableClock) -> None:
    saved(a=1)
    moving.advance(days=14)
    keys = {saved(a=2).session_key}
    management.call_command("clearsessions")
    state = SessionStore.store().sync().app_state
    assert set(state.keys(OWNER)) == keys
    moving.advance(days=-1)
    assert set(state.keys(OWNER)) == keys, "what had ended is not only hidden"


def test_a_session_that_was_deleted_meanwhile_does_not_come_back() -> None:
    session = saved(a=1)
    same = SessionStore(session.session_key)
    same["b"] = 2
    session.flush()
    with pytest.raises(UpdateError):
        same.save()
    assert not SessionStore().exists(same.session_key)


def test_a_session_whose_end_has_passed_is_deleted_by_saving_it() -> None:
    session = saved(a=1)
    session.set_expiry(-1)
    session.save()
    assert not session.exists(session.session_key)


def test_nothing_is_pickled() -> None:
    session = saved(a=1)
    text = SessionStore.store().sync().app_state.get(OWNER, session.session_key)
    assert re.fullmatch(r"[\w.:-]+", text)
    assert session.decode(text) == {"a": 1}
    with pytest.raises(TypeError):
        saved(a={1, 2})


@pytest.mark.parametrize("key", ["x" * 5000, "with a \0 in it", "\ud800" * 9, "' OR 1=1 --", "%2e%2e%2f%2e"])
def test_a_cookie_may_hold_anything(key: str) -> None:
    for use in (lambda s: s.load(), lambda s: s.flush(), lambda s: s.get("a"), lambda s: s.exists(key)):
        assert not use(SessionStore(key))
    assert not async_to_sync(SessionStore(key).aload)()
    async_to_sync(SessionStore(key).aflush)()
    with pytest.raises(UpdateError):
        SessionStore(key).save()


def test_there_is_no_session_without_a_key() -> None:
    assert SessionStore().exists("") is False
    assert async_to_sync(SessionStore().aexists)("") is False


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"URL": "sqlite://"}, "STATESTORE_SESSIONS: has no option 'URL'; there are url, namespace, "),
        ({"store": "sqlite://"}, "STATESTORE_SESSIONS: has no option 'store'; there are url, "),
        ("sqlite://", "STATESTORE_SESSIONS: must be a dict, not str"),
        (None, "STATESTORE_SESSIONS: must be a dict, not NoneType"),
        ({"url": ""}, "url: is empty; is a variable not set?"),
    ],
)
def test_wrong_settings_are_named(given: Any, problem: str) -> None:
    with override_settings(STATESTORE_SESSIONS=given):
        with pytest.raises(InvalidValueError) as caught:
            SessionStore("some key").load()
        assert str(caught.value).startswith(problem)
        with pytest.raises(InvalidValueError):
            asyncio.run(SessionStore("some key").aload())


def test_sessions_of_two_namespaces_do_not_meet(database_url: str) -> None:
    session = saved(a=1)
    with override_settings(STATESTORE_SESSIONS={"url": database_url, "namespace": "other"}):
        assert SessionStore(session.session_key).load() == {}
    assert SessionStore(session.session_key).load() == {"a": 1}


def test_sessions_are_not_in_lists_of_conversations() -> None:
    saved(a=1)
    assert SessionStore.store().sync().sessions.page(with_total=True).total == 0


def test_a_user_is_erased() -> None:
    sessions = [saved(_auth_user_id=str(number % 2)) for number in range(5)] + [saved(a=1)]
    asyncio.run(logged_in(sessions[-1].session_key, "1"))
    assert SessionStore.store().sync().sessions.delete_user("1").user_state_entries == 3
    assert [SessionStore(session.session_key).load() != {} for session in sessions] == [True, False] * 2 + [True, False]


async def logged_in(session_key: str, user_id: str) -> None:
    session = SessionStore(session_key)
    await session.aset("_auth_user_id", user_id)
    await session.asave()
    await SessionStore.store().aclose()


def test_all_of_it_awaited(database_url: str) -> None:
    async def use() -> None:
        session = SessionStore()
        await session.aset("a", 1)
        await session.asave()
        key = session.session_key
        assert await SessionStore(key).aload() == {"a": 1}
        assert await session.aexists(key)
        await session.acycle_key()
        await session.asave()
        assert not await session.aexists(key)
        assert await SessionStore(session.session_key).aget("a") == 1
        await SessionStore.aclear_expired()
        await session.adelete()
        with pytest.raises(UpdateError):
            await session.asave()

    for _ in range(2):  # One event loop after the other.
        async_to_sync(use)()
    for store in adapter._stores.values():
        async_to_sync(store.aclose)()


def test_a_request_through_the_middleware() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return HttpResponse(str(request.session["visits"]))

    answers, cookies = [], {}
    for _ in range(3):
        request = HttpRequest()
        request.COOKIES = cookies
        response = SessionMiddleware(view)(request)
        cookies = {settings.SESSION_COOKIE_NAME: response.cookies[settings.SESSION_COOKIE_NAME].value}
        answers.append(response.content)
    assert answers == [b"1", b"2", b"3"]


def test_the_cost_of_each_call(traffic: Traffic, clock: MovableClock, database_url: str) -> None:
    lazy = LazyStore(traffic.url, clock=clock)
    adapter._stores.clear()
    with override_settings(STATESTORE_SESSIONS={"url": lazy}):
        session = saved(a=1)

        def cost(act: Callable[[], Any]) -> int:
            for _ in range(8):
                traffic.clear()
                act()
            return len(traffic.statements)

        assert cost(lambda: SessionStore(session.session_key).load()) == 1
        assert cost(lambda: session.exists(session.session_key)) == 1
        assert cost(lambda: session.exists("")) == 0
        if database_url.startswith("postgresql"):
            assert cost(session.save) == 1
            assert cost(lambda: SessionStore().create()) == 1
            assert cost(lambda: session.delete("12345678")) == 1
            assert cost(session.cycle_key) == 2
    lazy.close()


APPLICATION = """
import os
from django.conf import settings

url = os.environ["APP_URL"]
settings.configure(
    SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], USE_TZ=True,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    CACHES={"default": {"BACKEND": "statestore.adapters.django.cache.StatestoreCache", "LOCATION": url}},
    SESSION_ENGINE="statestore.adapters.django.sessions", STATESTORE_SESSIONS={"url": url},
)
import django
django.setup()
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from statestore.adapters.django.sessions import SessionStore

# Used before the workers are forked.
cache.set("visits", 0, None)
before = SessionStore()
before.create()


def visit(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"{cache.incr('visits')} {request.session['visits']} {os.getpid()}")


urlpatterns = [path("", visit)]
application = get_wsgi_application()
"""


def test_workers_of_gunicorn_that_were_forked_after_loading(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers=3", f"--bind=127.0.0.1:{port}", "app"]
    environment = {"APP_URL": database_url, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        cookies, pids, until = "", set(), time.monotonic() + AMPLE
        numbers: list[tuple[str, str]] = []
        while len(numbers) < 40:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Cookie": cookies})
            try:
                with urllib.request.urlopen(request, timeout=AMPLE) as response:
                    assert response.status == HTTPStatus.OK
                    all_visits, own_visits, pid = response.read().decode().split()
                    cookies = response.headers["Set-Cookie"].partition(";")[0]
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until, (tmp_path / "log").read_text()
                time.sleep(0.1)
                continue
            numbers.append((all_visits, own_visits))
            pids.add(pid)
        assert numbers == [(str(n), str(n)) for n in range(1, 41)]
        assert len(pids) > 1, "one worker did it all"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(AMPLE)


def test_the_example_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "adapters" / "django.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
