"""What an answer is worth to WebArena: its own evaluators, asked once, at the end of an episode."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

ASKED = "generate_from_openai_chat_completion"


def answer_of(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The answer to the user, if the last message is one; "N/A" is WebArena's for what cannot be done."""
    last = messages[-1] if messages else {"role": ""}
    if last["role"] == "infeasible":
        return "N/A"
    return str(last["message"]) if last["role"] == "assistant" else None


def begun(task: Any) -> None:
    """Take an episode's end over from BrowserGym's task.

    BrowserGym (0.14) evaluates after each step: a judge is asked each time, and WebArena-Lite's evaluator opens the
    pages that it reads in the agent's own tab. The file with the reference answer, which it leaves behind, is removed.
    """
    task.validate = lambda page, messages: (0.0, False, "", {})
    os.unlink(task.config_file)


def worth(task: Any, page: Any, answer: str, model: str) -> float:
    """The score of an answer, 0 or 1, on the pages as they are now.

    Args:
        task: BrowserGym's, which was set up.
        page: the page that is looked at.
        model: the judge's name at its endpoint.

    Raises:
        RuntimeError: an evaluator could not do its work, such as a judge that gives no verdict. BrowserGym takes
            that for a score of 0.
    """
    from webarena.browser_env.actions import ActionTypes

    _ask(model)
    said = {"action_type": ActionTypes.STOP, "answer": answer}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as told:
        json.dump(_as_lists(task.config), told)
        told.flush()
        try:
            return float(task.evaluator(trajectory=[{}, said], config_file=told.name, page=page, client=None))
        except AssertionError as error:
            raise RuntimeError("an evaluator of WebArena, its judge, or the site's API gave no verdict") from error


def _as_lists(config: Mapping[str, Any]) -> dict[str, Any]:
    """One phrase as a list of one, where the evaluator takes lists alone (0.14: WebArena-Lite's task 349)."""
    told = config["eval"]
    answers = told["reference_answers"]
    if not answers or not isinstance(answers.get("must_include"), str):
        return dict(config)
    return dict(config) | {"eval": told | {"reference_answers": answers | {"must_include": [answers["must_include"]]}}}


def _ask(model: str) -> None:
    """Have the evaluators ask this model; they name one of their own."""
    from browsergym.webarenalite import helper_functions as lite
    from webarena.evaluation_harness import helper_functions as full
    from webarena.llms.providers.openai_utils import generate_from_openai_chat_completion as generate

    def ask(**request: Any) -> Any:
        if not model:
            raise RuntimeError("the answer is judged by an LLM, and env.options.judge names none")
        return generate(**request | {"model": model})

    for module in (lite, full):
        setattr(module, ASKED, ask)
