"""TRL's `GRPOTrainer` in a process of its own, one iteration at a time: the peer of `iteration_vs_trl.py`."""

from __future__ import annotations

import os
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil
from skewed import Skewed

from dreamgym.types import Task


def serve(
    connection: Connection,
    model: str,
    dtype: str,
    tasks: list[Task],
    groups: int,
    group_size: int,
    micro: int,
    turn: int,
) -> None:
    """Train; before an iteration wait for a word, and after it answer with its figures.

    Args:
        micro: sequences of one forward and backward pass.
        turn: the most tokens of one turn.
    """
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false")
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from dreamgym.models.chat import ChatFormat

    torch.set_num_threads(len(psutil.Process().cpu_affinity()))
    tokenizer = AutoTokenizer.from_pretrained(model)
    rollouts = Rollouts(ChatFormat(tokenizer), {task.instruction: task for task in tasks})

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not connection.recv():
                raise SystemExit
            rollouts.sampled = 0
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - self.began
            connection.send({"seconds": seconds, "sampled": rollouts.sampled})

    with tempfile.TemporaryDirectory() as home:
        settings = GRPOConfig(
            output_dir=home,
            use_cpu=True,
            bf16=False,
            model_init_kwargs={"dtype": dtype},
            learning_rate=1e-6,
            beta=0.0,
            num_generations=group_size,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=groups * group_size // micro,
            gradient_checkpointing=False,
            max_completion_length=1024,
            generation_kwargs={"max_new_tokens": turn},
            max_steps=10**6,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rows = [{"prompt": [{"role": "user", "content": task.instruction}]} for task in tasks]
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **given: given["reward"],
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            rollout_func=rollouts,
            callbacks=[Turns()],
        )
        trainer.train()


class Rollouts:
    """TRL's `rollout_func`: the same episodes, played with TRL's own batched generation, a turn of all at a time."""

    def __init__(self, chat: Any, tasks: dict[str, Task]) -> None:
        self._chat = chat
        self._tasks = tasks
        self.sampled = 0

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        envs = [Skewed() for _ in prompts]
        starts: list[list[int]] = []
        ids: list[list[int]] = []
        masks: list[list[int]] = []
        rewards = [0.0] * len(prompts)
        for env, prompt in zip(envs, prompts, strict=True):
            instruction = prompt[0]["content"]
            first, _ = env.reset(self._tasks[instruction])
            starts.append(self._chat.start([{"role": "user", "content": f"{instruction}\n{first}"}]))
            ids.append([])
            masks.append([])
        playing = list(range(len(prompts)))
        while playing:
            written, _ = trainer._generate_single_turn([starts[i] + ids[i] for i in playing], None, {}, 1)
            for i, answer in zip(list(playing), written, strict=True):
                self.sampled += len(answer)
                ids[i] += answer
                masks[i] += [1] * len(answer)
                state, reward, over, _, _ = envs[i].step(self._chat.decode(answer))
                rewards[i] += reward
                if over:
                    playing.remove(i)
                    continue
                closing = [] if answer[-1] in self._chat.stop_ids else self._chat.stop_ids[:1]
                seen = closing + self._chat.turn(state)
                ids[i] += seen
                masks[i] += [0] * len(seen)
        return {"prompt_ids": starts, "completion_ids": ids, "logprobs": None, "env_mask": masks, "reward": rewards}
