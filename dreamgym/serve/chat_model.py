"""A model that chats behind Ray Serve: one engine and its chat template a replica, nothing kept between requests."""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError

from dreamgym.config import EngineConfig, SamplingConfig
from dreamgym.errors import EngineError
from dreamgym.inference.engine import ContextFull, TokenEngine
from dreamgym.inference.engine_load import LOAD_STAT
from dreamgym.models.chat import load_chat
from dreamgym.runtime.spared_imports import spare_imports
from dreamgym.serve.chat_api import ChatRequest, Completion, Fault


class ChatModel:
    """Answers the requests of `chat_api`; `sampling` is what a request does not say."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model: str, engine: EngineConfig, sampling: SamplingConfig, dtype: str, seed: int, threads: int | None
    ) -> None:
        if threads is not None:
            spare_imports()
        self._sampling = sampling
        self._chat = load_chat(model, forks=True)
        self._engine = TokenEngine(Path(model), engine, dtype=dtype, seed=seed, threads=threads)
        await self._engine.start()

    async def complete(self, asked: ChatRequest) -> Completion | Fault:
        """The model's answer to a conversation."""
        try:
            prompt = self._chat.start([message.model_dump() for message in asked.messages])
            answer = await self._engine.generate(
                prompt, asked.sampling(self._sampling), stop_ids=self._chat.stop_ids, seed=asked.seed, logprobs=False
            )
        except (TemplateError, ContextFull) as error:
            return Fault(400, f"messages: {error}")
        except EngineError as error:
            return Fault(503, str(error))
        text = self._chat.decode(answer.ids)
        return Completion(
            text, answer.finish_reason, answer.prompt_tokens, answer.cached_tokens, written=len(answer.ids)
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve asks for regularly, for `scaling.replicas_for_load`."""
        return {LOAD_STAT: self._engine.load()}
