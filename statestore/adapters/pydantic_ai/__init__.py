"""pydantic-ai: message histories and conversations in a store.

    from pydantic_ai import Agent
    from statestore.adapters.pydantic_ai import MessageHistory

    history = MessageHistory("user-42", "sqlite:///agents.db")
    async with agent.iter("Is Saturday good?", message_history=await history.load()) as run:
        async for _ in run:
            await history.append(run.new_messages())

`StatestoreConversationStore` is a `ConversationStore`, with branches and forks. Both keep a message as the content of
an entry, and what a response used is in the usage reports.
"""

from statestore.adapters.pydantic_ai.conversations import StatestoreConversationStore as StatestoreConversationStore
from statestore.adapters.pydantic_ai.history import MessageHistory as MessageHistory
