"""The dream in a terminal: what is typed, what is printed, and what is wrong in one sentence."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from dreamgym.cli import main
from dreamgym.commands.play import Terminal
from dreamgym.config import RunConfig
from tests.unit.play.doors import Scripted, player, write_run


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return write_run(tmp_path)


def typed(config: RunConfig, *lines: str, world: Scripted | None = None, task: str = "t1") -> str:
    """What is printed where a person types these lines."""
    rest = iter(lines)

    def ask(_: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    out = Console(width=200, record=True, file=io.StringIO(), highlight=False)
    with asyncio.Runner() as runner:
        dream = player(config, world)
        Terminal(runner, dream, out, ask).talk(task)
        runner.run(dream.close())
    return out.export_text()


def test_a_dream_is_played_and_stepped_back(config: RunConfig) -> None:
    world = Scripted()
    printed = typed(config, "look", "push", "/back 2", "go up", "/again", "look", "/quit", "never", world=world)
    assert world.asked == {"look": 2, "push": 1, "go up": 1}
    for words in (
        "task t1 (train fold), dream 1",
        "find the attic",
        "map: hall, attic",
        "shown 0.88 real: in hall > go up = in attic",
        "reasons: it is look",
        "nothing happens: look",
        "the door opens",
        "after 0 steps",
        "reward 1",
        "The dream says: the task is solved.",
        "task t1 (train fold), dream 2",
    ):
        assert words in printed, words


def test_the_real_environment_is_told_beside_the_dream(config: RunConfig) -> None:
    printed = typed(config, "look", "/real", "push", "/real", "/task g1", "/real")
    assert "for real: nothing happens: look" in printed and "for real: nothing happens: push" in printed
    assert printed.count("first difference at step 2: another state") == 1
    assert "is not shown any more" in printed and "only a dream can play it" in printed


def test_answers_are_judged(config: RunConfig) -> None:
    printed = typed(
        config, "look", "/right", "push", "/wrong", "the door", "is shut", "", "0", "no", "it is locked", "mumble",
        "/unreadable", "/task t2", "push", "/wrong", "",
    )  # fmt: skip
    lines = [json.loads(line) for line in (config.run_dir / "judged.jsonl").read_text().splitlines()]
    assert [line["judged"] for line in lines] == ["right", "wrong", "unreadable", "wrong"]
    assert lines[1]["truth"]["next_state"] == "the door\nis shut" and lines[1]["truth"]["reasoning"] == "it is locked"
    assert lines[3]["truth"] is None and lines[3]["fold"] == "dev"
    assert "judged wrong; you said what is right, in" in printed


def test_what_is_wrong_is_told_and_the_play_goes_on(config: RunConfig) -> None:
    printed = typed(
        config, "/back", "/right", "/jump", "/task gone", "break", "/back x", "look", "/back", "mumble", "/back",
        "//slash", "/tasks cellar", "/help", "look", "/wrong", "x", "", "much",
    )  # fmt: skip
    for words in (
        "this is the beginning",
        "there is no step to judge",
        "no command /jump",
        "no task 'gone' in this run",
        "the engine is gone.",
        "'x' is no number of steps",
        "the episode is over after 1 steps; step back",
        "no readable step in 3 attempts",
        "nothing happens: /slash",
        "g1  find the cellar",
        "/unreadable",
        "'much' is no reward; nothing was judged.",
    ):
        assert words in printed, words
    assert not (config.run_dir / "judged.jsonl").exists()


def test_text_of_a_model_steers_no_terminal(config: RunConfig) -> None:
    printed = typed(config, "nasty", task="t2")
    assert "\x1b" not in printed and "window.hit=1" in printed and "[31m" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["play", "{run}"], "world: no experience model yet; run `dreamgym sft` first."),
        (["play", "{run}", "--task", "gone"], "no task 'gone' in {run}; choose one of its 3 tasks."),
        (["view", "{run}", "--play", "--no-open"], "world: no experience model yet; run `dreamgym sft` first."),
        (["view", "{run}", "{other}", "--play", "--no-open"], "there are 2 runs; name the one"),
        (["fidelity", "{run}"], "world: no experience model yet; run `dreamgym sft` first."),
        (["fidelity", "{run}", "--judged"], "judged.jsonl: no such file; judge steps of a dream with `dreamgym play`"),
        (["play", "name=never", "out={out}"], "no task with a first state; run `dreamgym annotate` first."),
    ],
)
def test_a_command_that_cannot_begin_says_why_in_a_sentence(
    arguments: Sequence[str],
    sentence: str,
    config: RunConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dreamgym.runtime.processes.TREE.end", lambda: None)  # children of the other tests live on
    other = write_run(config.out / "more").run_dir
    given = {"run": config.run_dir, "other": other, "out": config.out / "never"}
    assert main([word.format(**given) for word in arguments]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert sentence.format(**given) in told and told.count("error:") == 1 and len(told) < 400
