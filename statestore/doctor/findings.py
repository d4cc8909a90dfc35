"""What an examination has found."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "warn", "fail"]
VERDICTS: tuple[Verdict, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of an examination.

    Attributes:
        check: Which check it comes from, by a name that stays the same between releases.
        verdict: `ok`; `warn` for what goes well for now; `fail` for what loses data, is refused, or soon will be.
        message: What was found, on one line, without content, keys or secrets. Ids of sessions may be in it.
        remedy: The command that mends it, as it can be pasted into a shell. None for what no command can mend.
        sql: The statements that the remedy runs, if that is `statestore doctor --fix`.
    """

    check: str
    verdict: Verdict
    message: str
    remedy: str | None = None
    sql: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings about a database, in the order of the checks. It can be iterated over.

    Attributes:
        url: The database, without secrets.
        findings: What was found.
        from_environment: Whether the remedies take the database from STATESTORE_URL, since its URL has a secret. Set it
            before you run them.
    """

    url: str
    findings: tuple[Finding, ...]
    from_environment: bool = False

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return max((finding.verdict for finding in self.findings), key=VERDICTS.index, default="ok")
