"""What a user types, one file a command; a stage of a run is a command that leaves a record."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """The function that runs it, as `module:function`, what it does, and the stages of a run that it finishes."""

    target: str
    help: str
    stages: tuple[str, ...] = ()


COMMANDS = {
    "quickstart": Command("dreamgym.commands.quickstart:quickstart", "The whole way, from collecting to the report."),
    "collect": Command(
        "dreamgym.commands.collect:collect", "Record expert, noisy and random play of the real environment.",
        ("collect",),
    ),
    "annotate": Command(
        "dreamgym.commands.annotate:annotate", "Write the reasoning of every recorded transition.", ("annotate",)
    ),
    "sft": Command(
        "dreamgym.commands.sft:sft", "Train the experience model, and warm-start the policy.",
        ("sft-world", "sft-policy"),
    ),
    "train": Command(
        "dreamgym.commands.train:train", "Train the policy by reinforcement learning in the dream.", ("train",)
    ),
    "real": Command(
        "dreamgym.commands.real:real", "Go on in the real environment, for a budget of transitions.", ("real",)
    ),
    "dpo": Command(
        "dreamgym.commands.dpo:dpo", "Tune the warm start by DPO on pairs of recorded trajectories.", ("dpo",)
    ),
    "eval": Command(
        "dreamgym.commands.evaluate:evaluate", "Measure a player in the real environment, with a 95% interval.",
        ("eval-{who}",),
    ),
    "experiment": Command(
        "dreamgym.commands.experiment:experiment", "Run rows x seeds of the paper's tables, and write the table."
    ),
    "report": Command("dreamgym.commands.report:report", "Write one page on the run: report.html and report.md."),
    "view": Command("dreamgym.commands.view:view", "Open a page on runs, live while they go on: curves and episodes."),
    "play": Command("dreamgym.commands.play:play", "Play the dream of a run by hand, and judge what it answers."),
    "fidelity": Command(
        "dreamgym.commands.fidelity:fidelity", "Measure how true the experience model is, on held-out or judged steps."
    ),
    "serve": Command("dreamgym.commands.serve:serve", "Open a trained model as an OpenAI-compatible HTTP endpoint."),
    "plan": Command("dreamgym.commands.plan:plan", "Tell what a run needs: memory, hours, money, before it starts."),
    "doctor": Command("dreamgym.commands.doctor:doctor", "Check a cluster, or this machine, before a run."),
}  # fmt: skip
