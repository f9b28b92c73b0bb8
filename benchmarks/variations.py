"""Do variations hold together? The experience model of a finished MapReader run varies 150 of its real tasks.

    .venv/bin/python benchmarks/variations.py runs/quickstart-seed0

Each is drawn as the run draws them (`world.sampling.temperature`), read as the task generator reads it, and held
against what every game of MapReader keeps to. Counts go to `docs/results/variations.json`,
beside those of other ways to write.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import torch
from record import ROOT, record
from transformers import AutoModelForCausalLM, PreTrainedModel

from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.envs.mapreader import DIRECTIONS, parse_map, parse_state
from dreamgym.models.chat import ChatFormat, load_chat
from dreamgym.models.prompts import ParseError, begin, parse_variation, vary_message
from dreamgym.schema import read_parquet
from dreamgym.types import Task

RESULT = ROOT / "docs" / "results" / "variations.json"
DRAWS = 150


def fault(instruction: str, first_state: str, parent: Task) -> str:
    """What no game of MapReader would have; "" where there is nothing."""
    lines = first_state.split("\n")
    if len(lines) != 2 or not lines[0].startswith("map "):
        return "no map and line"
    names = [room.partition(": ")[0] for room in lines[0].removeprefix("map ").split(" ; ")]
    if len(set(names)) < len(names):
        return "a room twice"
    graph = parse_map(first_state)
    try:
        here = parse_state(first_state)
    except ValueError:
        return "no line"
    if any(
        other not in graph or name not in graph[other].joins for name, room in graph.items() for other in room.joins
    ):
        return "a way that leads nowhere or not back"
    where = {room.has: name for name, room in graph.items()}
    if Counter(room.has for room in graph.values()) != Counter(coin=1, box=1, nothing=len(graph) - 2):
        return "not one coin and one box"
    if instruction != f"coin in {where['coin']} to box in {where['box']}":
        return "a goal that the map lacks"
    if here["room"] not in graph or here["has"] != graph[here["room"]].has:
        return "a first room that the map lacks"
    if sorted(here[d] for d in DIRECTIONS if here[d] != "wall") != sorted(graph[here["room"]].joins):
        return "exits that the map lacks"
    return "the parent itself" if (instruction, first_state) == (parent.instruction, parent.first_state) else ""


@torch.no_grad()
def written(model: PreTrainedModel, chat: ChatFormat, config: RunConfig, parent: Task) -> str:
    """One answer of the task generator, as text."""
    prompt = torch.tensor([begin(config.world, chat, vary_message(parent))])
    drawn = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=config.world.sampling.temperature,
        top_k=0,
        max_new_tokens=config.world.sampling.max_tokens,
        eos_token_id=list(chat.stop_ids),
        pad_token_id=chat.end_id,
    )
    return chat.decode(drawn[0, prompt.shape[1] :].tolist())


def main() -> None:
    """Draw, check, count."""
    run_dir = Path(sys.argv[1])
    config = load_config(run_dir / "config.yaml", [])
    chat = load_chat(run_dir / "world")
    model = AutoModelForCausalLM.from_pretrained(run_dir / "world", dtype=torch.float32).eval()
    tasks = {t.task.id: t.task for t in read_parquet(run_dir / "data" / "annotated.parquet")}
    parents = random.Random(config.seed).sample(sorted(tasks.values(), key=lambda task: task.id), DRAWS)
    torch.manual_seed(config.seed)
    found: Counter[str] = Counter()
    for parent in parents:
        try:
            found[fault(*parse_variation(written(model, chat, config, parent), parent), parent) or "sound"] += 1
        except ParseError:
            found["refused"] += 1
    earlier = json.loads(RESULT.read_text()).get("earlier", []) if RESULT.exists() else []
    command = f".venv/bin/python benchmarks/variations.py {run_dir}"
    how = (
        "drawn from the quick start's experience model, each checked by walking its map; the ways under `earlier` are "
        "of code that was not kept"
    )
    record(RESULT, command, how=how, drawn=DRAWS, **{"as edits": dict(found.most_common()), "earlier": earlier})


if __name__ == "__main__":
    main()
