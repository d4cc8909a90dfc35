"""Where branches and the usage of turns are in a store: for the adapter, and for the import, which has no SDK."""

from typing import Final
from uuid import NAMESPACE_URL, uuid5

MAIN: Final = "main"
"""The branch that is the session itself."""

USAGE: Final = "openai_agents.usage"
"""What a turn used: in the metadata of the entry that begins it."""

NAMES: Final = "openai_agents.branches."
"""What the keys of `name_key` begin with."""


def branch_session_id(session_id: str, branch_id: str) -> str:
    """The id of a branch among the sessions of the store."""
    return session_id if branch_id == MAIN else f"{uuid5(NAMESPACE_URL, f'openai-agents:{session_id}')}/{branch_id}"


def name_key(branch_session_id: str) -> str:
    """The key in the state of the main session that says that a branch has, or had, this id: `used` or `deleted`."""
    # Not the id itself, which may be as long as a key can be.
    return f"{NAMES}{uuid5(NAMESPACE_URL, branch_session_id)}"
