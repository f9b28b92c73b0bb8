"""The command `fidelity`: how true a run's experience model is, on held-out real steps or on steps judged by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from dreamgym.commands.play import dreaming
from dreamgym.config import RunConfig
from dreamgym.data import judged as steps_by_hand
from dreamgym.data.judged import VERDICTS, JudgedStep
from dreamgym.envs.base import success_above
from dreamgym.errors import DataError
from dreamgym.models.chat import load_chat
from dreamgym.schema import read_parquet
from dreamgym.telemetry.console import console, waiting
from dreamgym.telemetry.stats import wilson
from dreamgym.training.fidelity import Prediction, predict, predict_last, scores

NAMES = {
    "state_exact": "next state, exactly",
    "state_f1": "next state, F1 of words",
    "outcome_accuracy": "reward and end",
    "done_precision": "end: precision",
    "done_recall": "end: recall",
    "reward_precision": "reward: precision",
    "reward_recall": "reward: recall",
    "unreadable": "no readable answer",
}


def fidelity(config: RunConfig, judged: bool = False) -> None:
    """Ask the experience model that the run dreamed with last for each step, and print how often it is right.

    With `judged`, also what the person said of the answers that were given when the steps were played.

    Raises:
        DataError: the run has no experience model, or no steps to measure on.
        ModelError: the model cannot be loaded.
    """
    by_hand = steps_by_hand.read(config.run_dir / steps_by_hand.FILE) if judged else []
    episodes = steps_by_hand.measurable(by_hand)
    if judged:
        _print_verdicts(by_hand)
        if not episodes:
            raise DataError(f"{config.run_dir / steps_by_hand.FILE}: no step whose right answer is known; judge more.")
    else:
        episodes = read_parquet(config.run_dir / "data" / "heldout.parquet")
    with dreaming(config) as (runner, world, model):
        chat = load_chat(model, forks=not config.world.history)
        ask = predict_last if judged else predict
        with waiting(f"asking {model.name} along {len(episodes):,} episodes"):
            told: Sequence[Prediction] = runner.run(ask(episodes, world, chat, config.seed))
    _print_scores(model.name, told, success_above(config.env))


def _print_verdicts(steps: Sequence[JudgedStep]) -> None:
    """What the person said, by model; a share with its 95% interval (Wilson)."""
    if not steps:
        return
    table = Table("model", "steps", *VERDICTS, "share right", title="as judged by hand", title_justify="left")
    for model in dict.fromkeys(step.model for step in steps):
        counts = Counter(step.judged for step in steps if step.model == model)
        low, high = wilson(counts["right"], counts.total())
        share = f"{counts['right'] / counts.total():.1%} ({low:.1%} to {high:.1%})"
        table.add_row(model, str(counts.total()), *(str(counts[verdict]) for verdict in VERDICTS), share)
    console.print(table)


def _print_scores(model: str, told: Sequence[Prediction], above: float) -> None:
    found = scores(told, above)
    table = Table("", "share", title=f"{model} on {len(told):,} steps", title_justify="left")
    for key, name in NAMES.items():
        if key in found:
            table.add_row(name, f"{found[key]:.1%}")
    console.print(table)
