"""Where the command line takes its database from: options, the environment, a file with profiles."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url

from statestore import StateStore
from statestore.cli import settings
from statestore.cli.options import Database
from tests.support.command_line import Ran, invoke

Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in *tmp_path*, with no variable of ours set but the given ones."""
    for name in [name for name in os.environ if name.startswith("STATESTORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0, **environment: str) -> Ran:
        done = invoke(*arguments, env=environment)
        assert done.exit_code == code, done.output
        return done

    return run


def taken(run: Run, *arguments: str, **environment: str) -> dict[str, Any]:
    """What `statestore config` says of each setting, without its source."""
    found = json.loads(run("config", "--json", *arguments, **environment).stdout)
    return {name: found[name]["value"] for name in ("url", "schema", "namespace")}


FILE = """
url = "sqlite:///top.db"
namespace = "top"

[profiles.prod]
url = "postgresql://app@db.example.com/app"
namespace = "acme"

[profiles.test]
schema = "test"
"""


def test_without_anything_it_is_a_file_in_the_current_directory(run: Run) -> None:
    assert taken(run) == {"url": "sqlite:///statestore.db", "schema": "statestore", "namespace": "default"}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((), {}, ("sqlite:///top.db", "statestore", "top")),
        (("--profile", "prod"), {}, ("postgresql://app@db.example.com/app", "statestore", "acme")),
        ((), {"STATESTORE_PROFILE": "prod"}, ("postgresql://app@db.example.com/app", "statestore", "acme")),
        # A profile adds to what stands outside of it.
        (("--profile", "test"), {}, ("sqlite:///top.db", "test", "top")),
        ((), {"STATESTORE_URL": "sqlite:///env.db"}, ("sqlite:///env.db", "statestore", "top")),
        (
            (),
            {"STATESTORE_URL": "sqlite:///env.db", "STATESTORE_PROFILE": "prod"},
            ("sqlite:///env.db", "statestore", "acme"),
        ),
        # An option counts for more than the environment: who asks for a profile gets its database.
        (
            ("--profile", "prod"),
            {"STATESTORE_URL": "sqlite:///env.db", "STATESTORE_NAMESPACE": "env"},
            ("postgresql://app@db.example.com/app", "statestore", "acme"),
        ),
        (
            ("--profile", "prod"),
            {"STATESTORE_PROFILE": "test"},
            ("postgresql://app@db.example.com/app", "statestore", "acme"),
        ),
        (("--url", "sqlite:///mine.db", "--profile", "prod"), {}, ("sqlite:///mine.db", "statestore", "acme")),
        (("--namespace", "mine"), {"STATESTORE_NAMESPACE": "env"}, ("sqlite:///top.db", "statestore", "mine")),
        ((), {"STATESTORE_NAMESPACE": "env", "STATESTORE_SCHEMA": "s"}, ("sqlite:///top.db", "s", "env")),
    ],
)
def test_options_come_before_the_environment_and_that_before_the_file(
    arguments: tuple[str, ...], environment: dict[str, str], expected: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "statestore.toml").write_text(FILE)
    assert tuple(taken(run, *arguments, **environment).values()) == expected


def test_a_profile_can_be_named_before_the_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "statestore.toml").write_text(FILE)
    found = json.loads(run("--profile", "prod", "config", "--json").stdout)
    assert found["namespace"] == {"value": "acme", "source": "profile prod in statestore.toml"}
    assert json.loads(run("--profile", "test", "config", "--profile", "prod", "--json").stdout)["schema"] == {
        "value": "statestore", "source": "default",
    }  # fmt: skip


def test_a_file_can_say_which_profile_is_used(run: Run, tmp_path: Path) -> None:
    (tmp_path / "statestore.toml").write_text(f'profile = "test"\n{FILE}')
    assert taken(run)["schema"] == "test"
    assert taken(run, STATESTORE_PROFILE="prod")["namespace"] == "acme"


def test_pyproject_has_the_same_under_tool_statestore(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.statestore]\nurl = "sqlite:///p.db"\n[tool.statestore.profiles.a]\nschema = "a"\n'
    )
    assert taken(run, "--profile", "a") == {"url": "sqlite:///p.db", "schema": "a", "namespace": "default"}
    (tmp_path / "statestore.toml").write_text('url = "sqlite:///own.db"\n')
    assert taken(run)["url"] == "sqlite:///own.db"


def test_a_path_in_a_file_is_relative_to_the_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "statestore.toml").write_text('url = "sqlite:///data/agents.db"\n')
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(below)
    run("migrate", "up")
    assert (tmp_path / "data" / "agents.db").exists()
    with StateStore.open(tmp_path / "data" / "agents.db") as store:
        store.sessions.create("found")
    assert run("sessions").stdout.splitlines()[1].startswith("found ")
    # A pyproject.toml nearer by that says nothing of statestore hides nothing.
    (below / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert "found" in run("sessions").stdout


def test_the_password_comes_from_the_variable_that_the_file_names(run: Run, postgres_url: str, tmp_path: Path) -> None:
    url = make_url(postgres_url)
    without = url.set(password=None).render_as_string(hide_password=False)
    (tmp_path / "statestore.toml").write_text(f'[profiles.p]\nurl = "{without}"\npassword_env = "APP_PASSWORD"\n')
    refused = run("sessions", "--profile", "p", code=1)
    assert refused.stderr == "error: the password is expected in the environment variable APP_PASSWORD; set it\n"
    assert "no matching sessions" in run("sessions", "--profile", "p", APP_PASSWORD=str(url.password)).stderr
    shown = run("config", "--profile", "p", APP_PASSWORD=str(url.password)).output
    assert str(url.password) not in shown
    assert "APP_PASSWORD" in shown


def test_the_password_of_one_url_is_not_sent_to_another(run: Run, tmp_path: Path) -> None:
    (tmp_path / "statestore.toml").write_text(
        'url = "postgresql://a@one.example/a"\npassword_env = "ONE"\n[profiles.b]\nurl = "postgresql://b@two.example/b"\n'
    )
    assert settings.resolve("url", None, "b", settings.read()).password_env is None  # type: ignore[union-attr]
    assert settings.resolve("url", "postgresql://c@c/c", None, settings.read()).password_env is None  # type: ignore[union-attr]
    assert settings.resolve("url", None, None, settings.read()).password_env == "ONE"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('ulr = "sqlite:///x.db"', "unknown key 'ulr'; did you mean 'url'?"),
        ('[profiles.prod]\nnamspace = "x"', "unknown key 'namspace' in profile prod; did you mean 'namespace'?"),
        (
            'colour = "x"',
            "unknown key 'colour'; known are: url, schema, table_prefix, namespace, password_env, reporting_url, "
            "profile, profiles",
        ),
        ("url = 5", "url must be text in quotes"),
        ('url = ""', "url must be text in quotes, and not empty"),
        ('profiles = "x"', "profiles are tables"),
        ('profile = ["x"]', "profile must be text"),
        ('[profiles.p]\npassword_env = "X"', "password_env in profile p needs a url beside it"),
        ("url = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, message: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "statestore.toml").write_text(text)
    refused = run("sessions", code=1).stderr
    assert refused.startswith("error: statestore.toml")
    assert message in refused
    (tmp_path / "statestore.toml").unlink()
    if "is not TOML" not in message:
        section = text if not text.startswith("[") else text.replace("[profiles", "[tool.statestore.profiles")
        (tmp_path / "pyproject.toml").write_text(section if text.startswith("[") else f"[tool.statestore]\n{section}")
        assert message in run("sessions", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--profile", "prdo"), {}, "--profile: statestore.toml has no profile 'prdo'; did you mean 'prod'?"),
        ((), {"STATESTORE_PROFILE": "x"}, "has no profile 'x'; its profiles are: prod, test"),
    ],
)
def test_an_unknown_profile_is_answered_with_the_known_ones(
    arguments: tuple[str, ...], environment: dict[str, str], message: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "statestore.toml").write_text(FILE)
    assert message in run("sessions", *arguments, code=1, **environment).stderr


def test_a_profile_without_a_file_says_so(run: Run) -> None:
    assert "no statestore.toml" in run("sessions", "--profile", "prod", code=1).stderr


def test_another_file_can_be_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(FILE)
    assert taken(run, STATESTORE_CONFIG="other.toml")["namespace"] == "top"
    assert json.loads(run("--config", "other.toml", "config", "--json").stdout)["namespace"]["value"] == "top"
    assert "'nope.toml', which --config names" in run("--config", "nope.toml", "sessions", code=1).stderr


def test_a_file_of_another_user_is_not_used_unless_it_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "statestore.toml").write_text(FILE)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    os.chown(tmp_path / "statestore.toml", 12345, -1) if os.getuid() == 0 else None
    refused = run("sessions", code=1).stderr
    assert "belongs to another user" in refused
    assert refused.endswith("STATESTORE_CONFIG=statestore.toml\n")
    assert taken(run, STATESTORE_CONFIG="statestore.toml")["namespace"] == "top"


@pytest.mark.skipif(os.getuid() != 0, reason="makes a link that belongs to somebody else")
def test_a_link_of_another_user_is_not_used(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(FILE)
    (tmp_path / "statestore.toml").symlink_to("mine.toml")
    assert taken(run)["namespace"] == "top"
    os.lchown(tmp_path / "statestore.toml", 12345, -1)
    assert "belongs to another user" in run("sessions", code=1).stderr


def test_remedies_name_the_profile_in_place_of_the_url(run: Run, empty_postgres_url: str, tmp_path: Path) -> None:
    (tmp_path / "statestore.toml").write_text(f'[profiles.p]\nurl = "{empty_postgres_url}"\n')
    assert "statestore migrate up --profile p" in run("sessions", "--profile", "p", code=1).stderr
    run("migrate", "up", "--profile", "p")
    missing = run("show", "nobody", "--profile", "p", "--namespace", "tenant", code=1).stderr
    assert missing.endswith("see: statestore sessions --profile p --namespace tenant\n")


def test_a_standby_belongs_to_the_url_beside_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "statestore.toml").write_text(
        'url = "postgresql://a@one.example/a"\nreporting_url = "postgresql://a@two.example/a"\npassword_env = "ONE"\n'
        '[profiles.b]\nurl = "sqlite:///b.db"\n'
    )
    monkeypatch.setenv("ONE", "opensesame")
    monkeypatch.setenv("STATESTORE_REPORTING_URL", "postgresql://elsewhere/x")
    chosen = Database.chosen(None, None, None, None).standby_url()
    assert isinstance(chosen, URL)
    assert (chosen.host, chosen.password) == ("two.example", "opensesame")
    assert Database.chosen(None, None, None, "b").standby_url() is None
    assert Database.chosen("sqlite:///c.db", None, None, None).standby_url() == "postgresql://elsewhere/x"


def test_the_prefix_of_tables_is_an_option_a_variable_and_a_key(run: Run, tmp_path: Path) -> None:
    def prefix(*arguments: str, **environment: str) -> tuple[str, str]:
        found = json.loads(run("config", "--json", *arguments, **environment).stdout)["table_prefix"]
        return found["value"], found["source"]

    assert prefix() == ("", "default")
    assert "table_prefix" not in run("config").stdout
    (tmp_path / settings.FILE).write_text('table_prefix = "file_"')
    assert prefix() == ("file_", settings.FILE)
    assert prefix(STATESTORE_TABLE_PREFIX="variable_") == ("variable_", "STATESTORE_TABLE_PREFIX")
    assert prefix("--table-prefix", "option_", STATESTORE_TABLE_PREFIX="x_") == ("option_", "--table-prefix")
    assert "table_prefix  file_" in run("config").stdout
