"""The Claude Agent SDK: a `SessionStore` that keeps its transcripts in a store.

    from claude_agent_sdk import ClaudeAgentOptions, query
    from statestore.adapters.claude_agent_sdk import StatestoreSessionStore

    options = ClaudeAgentOptions(session_store=StatestoreSessionStore("sqlite:///agents.db"))
    async for message in query(prompt="Is Saturday good for a walk?", options=options):
        print(message)

A transcript is a session, and each of its lines an entry with the line as its content. `statestore_id` names the
session. A sub-agent's transcript is a part of its session.
"""

from statestore.adapters.claude_agent_sdk.keys import statestore_id as statestore_id
from statestore.adapters.claude_agent_sdk.store import StatestoreSessionStore as StatestoreSessionStore
