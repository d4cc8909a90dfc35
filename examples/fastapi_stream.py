"""A FastAPI service that streams answers and keeps the conversation: `uvicorn examples.fastapi_stream:app`.

Needs `pip install fastapi uvicorn`. If the client goes away in the middle, what was said until then is kept.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import CancelScope
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from statestore import AsyncStateStore


async def model(messages: list[Any]) -> AsyncIterator[str]:
    """Your provider's stream goes here."""
    for word in f"That was message {len(messages)}: {messages[-1]['content']}".split():
        await asyncio.sleep(0)
        yield f"{word} "


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncStateStore.open("sqlite:///service.db") as store:
        app.state.store = store
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/chats/{session_id}")
async def chat(session_id: str, message: dict[str, str]) -> StreamingResponse:
    store: AsyncStateStore = app.state.store
    question = {"role": "user", "content": message["content"]}
    await store.history.append(session_id, [question], create=True)

    async def answer() -> AsyncIterator[str]:
        said = ""
        try:
            async for piece in model(await store.history.messages(session_id, last=20)):
                said += piece
                yield piece
        finally:
            if said:
                with CancelScope(shield=True):  # The server cancels this if the client goes away.
                    await store.history.append(session_id, [{"role": "assistant", "content": said.strip()}])

    return StreamingResponse(answer(), media_type="text/plain")


@app.get("/chats/{session_id}")
async def read(session_id: str) -> list[Any]:
    return await app.state.store.history.messages(session_id)
