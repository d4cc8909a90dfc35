"""Sessions of the OpenAI Agents SDK in a store.

    session = StatestoreSession("user-42", "postgresql://app@db/agents", create=NewSession(user_id="ada"))
    result = await Runner.run(agent, "Hello", session=session)
    await session.store_run_usage(result)

Each item of the SDK is an entry of the history, as it is, and a branch is a fork.
"""

from statestore.adapters.openai_agents.branches import AdvancedStatestoreSession
from statestore.adapters.openai_agents.session import StatestoreSession

__all__ = ["AdvancedStatestoreSession", "StatestoreSession"]
