"""Rows x seeds: what each job is set to, what jobs share, what counts as finished, and what is told of mistakes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dreamgym.cli import main
from dreamgym.commands.evaluate import MODELS
from dreamgym.commands.experiment import Experiment
from dreamgym.commands.paper_tables import COMMON_START, ROWS, STAGES, TABLES
from dreamgym.config import RunConfig
from dreamgym.runs.folder import write_text
from dreamgym.runs.stage import read_stage, stage
from tests.waiting import HANG_S, until_ended

RECIPE = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
DEPENDS = {
    "collect": ["env.name", "collect"],
    "annotate": ["annotate.by"],
    "sft-world": ["world.model", "world.sft", "world.history", "replay.top_k"],
    "sft-policy": ["policy.model", "policy.sft", "policy.demonstrations"],
    "train": ["replay", "curriculum", "learner", "train"],
    "real": ["real"],
    "dpo": ["policy.dpo"],
}


def _asked(out: Path, *words: str) -> Experiment:
    return Experiment("table1", RECIPE, (f"out={out}", *words))


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_valid_configuration_of_the_quick_start(row: str, tmp_path: Path) -> None:
    config = _asked(tmp_path).config(row, 3)
    assert config.seed == 3
    assert config.run_dir == tmp_path / f"quickstart-{row}-seed3"


def test_the_rows_are_those_of_the_paper(tmp_path: Path) -> None:
    asked = _asked(tmp_path)
    config = {row: asked.config(row, 0) for row in ROWS}
    assert {row for row in ROWS if config[row].train.world == "real"} == {"real_grpo", "real_ppo"}
    assert {row for row in ROWS if ROWS[row].player == "policy_real"} == {"sim_to_real_grpo", "sim_to_real_ppo"}
    for rule in ("grpo", "ppo"):
        assert {config[f"{where}_{rule}"].learner.algorithm for where in ("real", "dream", "sim_to_real")} == {rule}
        budget = config[f"real_{rule}"].real.transitions
        assert budget >= 10_000
        assert 0 < config[f"sim_to_real_{rule}"].real.transitions <= budget / 10
    assert set(ROWS) == {row for rows in TABLES.values() for row in rows}


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [
        ("no_reasoning", "annotate.by", "none"),
        ("no_replay", "replay.top_k", 0),
        ("no_history", "world.history", False),
        ("no_generated_tasks", "curriculum.generated_share", 0),
        ("no_memo", "world.memo", False),
    ],
)
def test_an_ablation_differs_from_the_full_system_in_one_setting(
    row: str, field: str, value: object, tmp_path: Path
) -> None:
    full, less = (_asked(tmp_path).config(name, 0).model_dump() for name in ("dream_grpo", row))
    section, leaf = field.split(".")
    assert less[section].pop(leaf) == value != full[section].pop(leaf)
    for config in (full, less):
        del config["name"]
    assert less == full


def test_settings_of_a_row_win_over_those_of_all_and_lose_to_those_of_that_row(tmp_path: Path) -> None:
    asked = _asked(tmp_path, "replay.top_k=3", "no_replay:train.groups=2", "real_grpo:real.transitions=500")
    assert asked.config("no_replay", 0).replay.top_k == 0
    assert asked.config("dream_grpo", 0).replay.top_k == 3
    assert asked.config("no_replay", 0).train.groups == 2 != asked.config("dream_grpo", 0).train.groups
    assert asked.config("real_grpo", 0).real.transitions == 500
    assert asked.config("real_ppo", 0).real.transitions != 500


def _finish(config: RunConfig, *names: str) -> None:
    """Records and a few files of stages, as the stages leave them."""
    upstream = {"annotate": "collect", "sft-world": "annotate", "sft-policy": "sft-world", "train": "sft-policy",
                "eval-warm_start": "sft-policy", "eval-policy": "train"}  # fmt: skip
    for name in names:
        files = ["warm_start"] if name == "sft-policy" else []
        with stage(config, name, DEPENDS.get(name, ["eval"]), [upstream[name]] if name in upstream else [], files) as s:
            s.tokens = 100
            s.summary |= {"steps": 40} if name == "collect" else {}
            s.summary |= {"real_transitions_learned": 5} if name == "train" else {}
            if name.startswith("eval-"):
                s.summary |= {"success": 0.5, "low": 0.4, "high": 0.6, "games": 100, "env_failed": 1}
            if name == "sft-policy":
                write_text(s.run_dir / "warm_start" / "config.json", "{}")


def test_a_job_is_finished_once_its_player_is_measured_with_its_settings(tmp_path: Path) -> None:
    asked = _asked(tmp_path)
    config = asked.config("real_grpo", 0)
    _finish(config, *STAGES["policy"])
    assert asked.result("real_grpo", 0) is None
    _finish(config, "eval-policy")
    result = asked.result("real_grpo", 0)
    assert result is not None
    assert (result["success"], result["wilson95"], result["games"]) == (0.5, [0.4, 0.6], 100)
    assert (result["real_transitions"], result["offline_transitions"], result["tokens"]) == (5, 40, 500)
    assert result["minutes"] == pytest.approx(sum(s["seconds"] for s in result["stages"]) / 60, abs=1e-3)
    assert [s["stage"] for s in result["stages"]] == list(STAGES["policy"])
    assert asked.result("real_grpo", 1) is None
    assert _asked(tmp_path, "learner.lr=0.5").result("real_grpo", 0) is None
    assert _asked(tmp_path, "real_grpo:eval.games=7").result("real_grpo", 0) is None
    assert _asked(tmp_path, "real_ppo:eval.games=7").result("real_grpo", 0) == result


def test_an_ablation_of_the_dream_begins_with_the_warm_start_of_the_others_and_counts_its_cost(tmp_path: Path) -> None:
    asked = _asked(tmp_path)
    assert asked.settled("no_history", 0) is None
    common = asked.config(COMMON_START, 0)
    _finish(common, *STAGES["warm_start"])
    config = asked.settled("no_history", 0)
    made = read_stage(common.run_dir, "sft-policy")
    assert config is not None and made is not None
    assert config.policy.model.source == str(tmp_path / "warm_starts" / made["fingerprint"])
    assert config.policy.sft.tokens == 0
    _finish(config, *STAGES["policy"], "eval-policy")
    result = asked.result("no_history", 0)
    assert result is not None
    assert result["tokens"] == 700  # both experience models and warm starts, what they share once
    assert sorted(s["stage"] for s in result["stages"]) == sorted([*STAGES["policy"], "sft-world", "sft-policy"])
    _finish(_asked(tmp_path, "policy.demonstrations=7").config(COMMON_START, 0), "sft-policy")
    assert asked.result("no_history", 0) is None


def test_a_table_that_is_there_spares_its_jobs_on_another_machine_unless_settings_differ(
    tmp_path: Path,
) -> None:
    here, there, results = (tmp_path / name for name in ("here", "there", "results"))
    for seed in (0, 1):
        _finish(_asked(here).config("real_grpo", seed), *STAGES["policy"], "eval-policy")

    def rows(out: Path, seeds: str, *words: str) -> list[dict[str, Any]]:
        call = ["table1", str(RECIPE), f"out={out}", *words, "--rows", "real_grpo", "--seeds", seeds]
        assert main(["experiment", *call, "--results", str(results)]) == 0
        return list(json.loads((results / "table1_mapreader.json").read_text())["rows"])

    first = rows(here, "0,1")
    assert [row["seeds"] for row in first] == [[0, 1]]
    assert rows(there, "0,1") == first
    assert rows(there, "0,1", "policy.dpo.beta=0.5") == first  # nothing of this row depends on it
    assert not (there / "quickstart-real_grpo-seed0").exists()
    _finish(_asked(there).config("real_grpo", 2), *STAGES["policy"], "eval-policy")
    assert [row["seeds"] for row in rows(there, "2")] == [[0, 1, 2]]
    _finish(_asked(there, "learner.lr=0.5").config("real_grpo", 2), *STAGES["policy"], "eval-policy")
    assert [row["seeds"] for row in rows(there, "2", "learner.lr=0.5")] == [[2]]


def test_the_command_of_a_table_names_what_it_takes_and_no_folder_of_this_machine() -> None:
    asked = Experiment("table1", Path("r.yaml"), ("out=/here", "env.options={a: 1}", "real_grpo:real.transitions=9"))
    assert shlex.split(asked.command([0, 2])) == [
        "dreamgym", "experiment", "table1", "r.yaml", "env.options={a: 1}", "real_grpo:real.transitions=9",
        "--seeds", "0,2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no experiment ''", "table1, ablation, memo"]),
        (["table2"], ["'table2'", "table1, ablation, memo"]),
        (["table1", "nowhere.yaml"], ["nowhere.yaml", "no such recipe"]),
        (["table1", "--rows", "real_grpo,never"], ["no row 'never'", "dream_grpo"]),
        (["table1", "--rows", "no_replay"], ["no row 'no_replay' in table1"]),
        (["table1", "never:seed=1"], ["no row 'never'"]),
        (["ablation", "replay.top_k=3"], ["'replay.top_k=3' is for all rows", "no_replay:replay.top_k="]),
        (["table1", "--seeds", "0,x"], ["--seeds", "'0,x'", "0,1,2"]),
        (["table1", "learner.lrr=1"], ["learner.lrr", "'learner.lr'"]),
        (["table1", "real_grpo:learner.lrr=1"], ["learner.lrr", "'learner.lr'"]),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(RECIPE.parents[1])
    monkeypatch.setattr("dreamgym.runtime.processes.TREE.end", lambda: None)
    assert main(["experiment", *arguments, f"out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert [word for word in words if word not in error] == [], error
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "--help"]) == 0
    printed = capsys.readouterr().out
    assert [row for row in ROWS if row not in printed] == []


def test_the_stages_of_a_player_are_those_that_its_functions_record() -> None:
    """The names in the registry are the names of the records."""
    assert {player: names[-1] for player, names in STAGES.items()} == MODELS


STUCK = """
import threading
from examples.keyhouse import KeyHouse

class Stuck(KeyHouse):
    def step(self, action):
        threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("send", "number", "code"),
    [(os.kill, signal.SIGTERM, 143), (os.killpg, signal.SIGINT, 130)],
    ids=["term", "ctrl-c"],
)
def test_a_signal_ends_the_job_that_runs_as_well(
    send: Callable[[int, int], None], number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """SIGTERM comes to the command alone, a Ctrl-C to all that the terminal runs."""
    (tmp_path / "stuck.py").write_text(STUCK)
    words = [
        "table1",
        str(RECIPE),
        "env.name=stuck:Stuck",
        f"env.timeout_s={HANG_S}",
        f"out={tmp_path}",
        "--rows",
        "warm_start,dpo",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "dreamgym.cli", "experiment", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=RECIPE.parents[1],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    ) as command:
        assert command.stdout is not None and command.stderr is not None
        assert any("▶ collect" in line for line in command.stdout)
        (job,) = psutil.Process(command.pid).children()
        send(command.pid, number)
        error = command.stderr.read()
        assert command.wait(timeout=HANG_S) == code, error
    until_ended([job])
    assert f"finished work is kept in {tmp_path}; run the same command again" in error
    assert "Traceback" not in error
