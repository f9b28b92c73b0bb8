"""Users' files: what may be left out, what every fault says, and that no input at all crashes the import."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamgym.commands.annotate import annotate
from dreamgym.commands.collect import collect
from dreamgym.config.loading import load_config
from dreamgym.data.importing import FINAL_STATE, UserStep, UserTask, UserTrajectory, import_files
from dreamgym.errors import DataError
from dreamgym.schema import read_parquet, write_parquet
from dreamgym.types import Trajectory
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]

WON: dict[str, Any] = {
    "task": {"instruction": "open the chest"},
    "steps": [{"state": "hall", "action": "go"}, {"state": "attic", "action": "open"}],
    "success": True,
}


def won(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(WON), **changes}


def numbered(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [won(task={"id": f"t{i}", "instruction": "open the chest"}, **changes) for i in range(count)]


def load(tmp_path: Path, *records: Any, seed: int = 0, heldout: int = 60) -> tuple[list[Trajectory], list[Trajectory]]:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return import_files([file], "mine", seed, heldout)


def test_thoughts_are_given_apart_or_taken_from_the_answers(tmp_path: Path) -> None:
    """What an answer does not hold is kept as it was written, and teaches nobody."""
    steps = [
        {"state": "hall", "action": "Thought: up\nAction: go"},
        {"state": "attic", "action": "Thought: hm"},
        {"state": "attic", "action": "Action: open"},
    ]
    load(tmp_path, *numbered(2, steps=steps))
    (t,), _ = import_files([tmp_path / "mine.jsonl"], "mine", 0, 60, "react")
    assert [(s.thought, s.action, s.malformed) for s in t.steps] == [
        ("up", "go", ""),
        ("hm", "", "no_action"),
        ("", "open", ""),
    ]
    assert [s.answer for s in t.steps] == [step["action"] for step in steps]
    assert [s.by_expert for s in t.steps] == [True, False, True]
    apart, _ = load(tmp_path, *numbered(2, steps=[{"state": "hall", "action": "go\n  on", "thought": "up"}]))
    assert [(s.thought, s.action, s.answer) for s in apart[0].steps] == [("up", "go\n  on", "")]
    write_parquet(tmp_path / "ours.parquet", [t, *_])
    again, _ = import_files([tmp_path / "ours.parquet"], "mine", 0, 60)
    assert again[0].steps == t.steps


def test_what_is_left_out_gets_its_default(tmp_path: Path) -> None:
    train, heldout = load(tmp_path, *numbered(2))
    (trajectory,) = train
    first, last = trajectory.steps
    assert (first.next_state, first.reward, first.done) == ("attic", 0.0, False)
    assert (last.next_state, last.reward, last.done) == (FINAL_STATE, 1.0, True)
    assert [s.expert_action for s in trajectory.steps] == ["go", "open"]
    assert (trajectory.source, trajectory.world, trajectory.fold) == ("expert", "real", "train")
    assert (trajectory.success, trajectory.truncated) == (True, False)
    assert (trajectory.task.env, trajectory.task.first_state) == ("mine", "hall")
    assert [t.fold for t in heldout] == ["dev"]


def test_what_is_given_is_kept(tmp_path: Path) -> None:
    given_steps = [
        {
            "state": "hall",
            "action": "jump",
            "next_state": "hall",
            "reward": -0.5,
            "reasoning": "no",
            "expert_action": "go",
        },
        {"state": "hall", "action": "go", "next_state": "attic", "reward": 0.25, "done": True},
    ]
    task = {"id": "x", "instruction": "go up", "payload": {"seed": 3}}
    record = {"task": task, "steps": given_steps, "source": "noisy", "success": False, "fold": "dev"}
    train, (trajectory,) = load(tmp_path, won(), record)
    assert len(train) == 1
    assert json.loads(trajectory.task.payload) == {"seed": 3}
    assert [s.reward for s in trajectory.steps] == [-0.5, 0.25]
    assert [s.expert_action for s in trajectory.steps] == ["go", ""]
    assert trajectory.steps[0].reasoning == "no"
    assert (trajectory.success, trajectory.truncated, trajectory.steps[1].done) == (False, False, True)


def test_a_failure_without_an_end_is_truncated_and_not_done(tmp_path: Path) -> None:
    steps = [{"state": "hall", "action": "wait", "next_state": "hall"}]
    train, _ = load(tmp_path, *numbered(2, steps=steps, success=False))
    assert (train[0].truncated, train[0].steps[0].done, train[0].steps[0].reward) == (True, False, 0.0)


def test_only_what_succeeded_is_an_experts_where_nothing_says_whose_it_is(tmp_path: Path) -> None:
    steps = [{"state": "hall", "action": "wait", "next_state": "hall"}]
    train, _ = load(tmp_path, *numbered(2, steps=steps, success=False))
    assert (train[0].source, train[0].steps[0].by_expert) == ("policy", False)
    said, _ = load(tmp_path, *numbered(2, steps=steps, success=False, source="expert"))
    assert (said[0].source, said[0].steps[0].by_expert) == ("expert", True)


def test_a_reward_is_a_success_above_what_the_environment_asks_for(tmp_path: Path) -> None:
    steps = [{"state": "shop", "action": "buy", "reward": 0.5, "next_state": "home"}]
    load(tmp_path, *numbered(2, steps=steps, success=None))
    for above, success in ((0.0, True), (0.5, False)):
        train, _ = import_files([tmp_path / "mine.jsonl"], "mine", 0, 60, success_above=above)
        assert train[0].success is success
    steps[0]["done"] = False
    load(tmp_path, *numbered(2, steps=steps, success=None))
    train, _ = import_files([tmp_path / "mine.jsonl"], "mine", 0, 60)
    assert not train[0].success, "a reward on the way is no success"


def test_an_observation_or_an_action_may_be_empty_but_not_the_first_state(tmp_path: Path) -> None:
    steps = [{"state": "hall", "action": ""}, {"state": "", "action": "open", "next_state": ""}]
    train, _ = load(tmp_path, *numbered(2, steps=steps))
    assert [(s.state, s.action, s.next_state) for s in train[0].steps] == [("hall", "", ""), ("", "open", "")]
    with pytest.raises(DataError, match=r"mine.jsonl:1: steps\[0\].state: empty"):
        load(tmp_path, *numbered(2, steps=steps[1:]))


def test_what_editors_put_before_a_text_is_no_fault_and_an_array_is_named(tmp_path: Path) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in numbered(2))
    (tmp_path / "bom.jsonl").write_text(lines, encoding="utf-8-sig")
    assert len(import_files([tmp_path / "bom.jsonl"], "mine", 0, 60)[0]) == 1
    (tmp_path / "array.json").write_text(json.dumps(numbered(2)))
    with pytest.raises(DataError, match=r"array.json:1: a JSON array; put one trajectory in a line"):
        import_files([tmp_path / "array.json"], "mine", 0, 60)


def test_success_follows_from_the_last_reward_where_it_is_not_given(tmp_path: Path) -> None:
    records = numbered(4, success=None)
    for record, reward in zip(records, (1.0, 0.0, 1.0, 0.0), strict=True):
        record["steps"][1] |= {"reward": reward, "next_state": "end"}
    train, heldout = load(tmp_path, *records)
    assert {t.task.id: t.success for t in train + heldout} == {"t0": True, "t1": False, "t2": True, "t3": False}


def test_held_out_tasks_are_split_off_whole_and_the_same_in_any_order(tmp_path: Path) -> None:
    records = numbered(30) + numbered(30)
    train, heldout = load(tmp_path, *records)
    assert len({t.task.id for t in heldout}) == 3
    assert len(heldout) == 6
    assert not {t.task.id for t in train} & {t.task.id for t in heldout}
    again = {t.task.id for t in load(tmp_path, *reversed(records))[1]}
    assert again == {t.task.id for t in heldout}
    assert len(load(tmp_path, *records, heldout=1)[1]) == 2
    splits = {frozenset(t.task.id for t in load(tmp_path, *records, seed=s)[1]) for s in range(5)}
    assert len(splits) > 1


def test_the_same_rows_as_parquet_give_the_same_trajectories(tmp_path: Path) -> None:
    records = numbered(5)
    records[2]["steps"][0]["reasoning"] = "the attic is up"
    from_lines = load(tmp_path, *records)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    assert import_files([tmp_path / "rows.parquet"], "mine", 0, 60) == from_lines
    write_parquet(tmp_path / "ours.parquet", from_lines[0] + from_lines[1])
    train, heldout = import_files([tmp_path / "ours.parquet"], "mine", 0, 60)
    assert {t.task.id for t in train} == {t.task.id for t in from_lines[0]}
    assert [t.steps for t in heldout] == [t.steps for t in from_lines[1]]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{'task': 1}\n", "mine.jsonl:2: Invalid JSON"),
        ("[1, 2]\n", "mine.jsonl:2: "),
        ('{"task": {"instruction": "a"}, "steps": [], "success": NaN}\n', "mine.jsonl:2: steps: "),
        (won(task={}), "mine.jsonl:2: task.instruction: Field required."),
        (won(task={"instruction": "  "}), "mine.jsonl:2: task.instruction: "),
        (won(steps=[]), "mine.jsonl:2: steps: "),
        (won(steps=[{"state": "a"}]), "mine.jsonl:2: steps[0].action: Field required."),
        (won(steps=[{"state": "a", "action": 5}]), "mine.jsonl:2: steps[0].action: should be a valid string."),
        (won(steps=[{"state": "a", "action": "b", "rewrad": 1}]), "mine.jsonl:2: steps[0].rewrad: unknown field."),
        (won(steps=[{"state": "a", "action": "b", "reward": float("nan")}]), "mine.jsonl:2: steps[0].reward: "),
        (won(steps=[{"state": "a", "action": "b", "reward": 1e300}]), "mine.jsonl:2: steps[0].reward: "),
        (won(fold="test"), "mine.jsonl:2: fold: should be 'train' or 'dev'."),
        (won(source="me"), "mine.jsonl:2: source: "),
        (won(success=None), "mine.jsonl:2: success: neither it nor any step's reward"),
        (won(success=False), "mine.jsonl:2: steps[1].next_state: missing"),
        (
            won(steps=[{"state": "a", "action": "b", "done": True}, {"state": "c", "action": "d"}]),
            "mine.jsonl:2: steps[0].done: true before the last step",
        ),
        (
            won(steps=[{"state": "a", "action": "b", "next_state": "x"}, {"state": "c", "action": "d"}]),
            "mine.jsonl:2: steps[0].next_state: is not the state of steps[1]",
        ),
        (won(task={"id": "t0", "instruction": "another"}), "mine.jsonl:2: task.id: 't0' has another instruction"),
        (
            won(task={"id": "t0", "instruction": "open the chest", "payload": "7"}),
            "mine.jsonl:2: task.id: 't0' has another payload",
        ),
        (
            won(task={"id": "t0", "instruction": "open the chest"}, steps=[{"state": "cellar", "action": "open"}]),
            "mine.jsonl:2: task.id: 't0' has another first state",
        ),
        (
            won(task={"id": "t0", "instruction": "open the chest"}, fold="dev"),
            "mine.jsonl:2: fold: task 't0' is in 'train' and in 'dev'",
        ),
    ],
)
def test_every_fault_names_file_line_and_field(tmp_path: Path, record: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, numbered(1)[0], record)
    message = str(caught.value)
    assert message.removeprefix(f"{tmp_path}/").startswith(words)
    assert "\n" not in message


def test_files_that_are_no_data_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("state,action")
    (tmp_path / "a.parquet").write_text("no")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    pq.write_table(pa.table({"state": ["a"], "action": ["b"]}), tmp_path / "b.parquet")
    for name, words in {
        "a.csv": "unknown kind '.csv'",
        "a.parquet": "not a readable Parquet file",
        "b.parquet": r"b\.parquet: row 0: task: Field required",
        "empty.jsonl": "hold no trajectory",
        "gone.jsonl": "no such file",
    }.items():
        with pytest.raises(DataError, match=words):
            import_files([tmp_path / name], "mine", 0, 60)


def test_one_task_or_only_held_out_ones_is_too_little(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only one task"):
        load(tmp_path, won(), won())
    with pytest.raises(DataError, match="every trajectory says fold 'dev'"):
        load(tmp_path, *numbered(2, fold="dev"))


def test_a_parquet_of_the_schema_with_test_rows_is_refused(tmp_path: Path) -> None:
    train, _ = load(tmp_path, *numbered(3))
    train[1].fold = "test"
    write_parquet(tmp_path / "ours.parquet", train)
    with pytest.raises(DataError, match="row 1: fold: should be 'train' or 'dev'"):
        import_files([tmp_path / "ours.parquet"], "mine", 0, 60)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PATHS = [
    *(("task",), ("steps",), ("source",), ("success",), ("fold",), ("extra",)),
    *(("task", key) for key in ("id", "instruction", "payload", "extra")),
    *(
        ("steps", i, key)
        for i in (0, 1)
        for key in ("state", "action", "next_state", "reward", "done", "reasoning", "expert_action")
    ),
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(PATHS), JSON), max_size=4))
def test_a_record_with_anything_anywhere_is_imported_or_refused(tmp_path: Path, changes: list[Any]) -> None:
    record = won()
    for path, value in changes:
        target: Any = record
        for part in path[:-1]:
            if isinstance(target, dict) or (isinstance(target, list) and isinstance(part, int) and part < len(target)):
                target = target.get(part) if isinstance(target, dict) else target[part]
        if isinstance(target, dict):
            target[path[-1]] = value
    try:
        train, heldout = load(tmp_path, *numbered(2), record)
    except DataError as error:
        problem = str(error)
    else:
        problem = "mine.jsonl: none"
        write_parquet(tmp_path / "kept.parquet", train + heldout)
        assert [t.id for t in read_parquet(tmp_path / "kept.parquet")] == [t.id for t in train + heldout]
    assert "mine.jsonl" in problem or "collect.files" in problem


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), cut=st.integers(0, 200), name=st.sampled_from(["f.jsonl", "f.parquet"]))
def test_broken_bytes_are_refused(tmp_path: Path, data: bytes, cut: int, name: str) -> None:
    if name == "f.jsonl":
        whole = "\n".join(map(json.dumps, numbered(2))).encode()
    else:
        pq.write_table(pa.Table.from_pylist(numbered(2)), tmp_path / "whole.parquet")
        whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / name).write_bytes(whole[:cut] + data + whole[cut + len(data) :])
    try:
        train, heldout = import_files([tmp_path / name], "mine", 0, 60)
    except DataError as error:
        problem = str(error)
    else:
        problem = "" if train and heldout else "an empty fold"
    assert not problem or name in problem or "collect.files" in problem


def test_the_page_on_own_logs_tells_the_truth(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "own-logs.md").read_text()
    record = json.loads(page.split("```json\n")[1].split("```")[0])
    train, heldout = load(tmp_path, record, *numbered(1))
    assert {t.task.instruction for t in train + heldout} == {"open the chest with the red key", "open the chest"}
    told = set(
        re.findall(r"`((?:task|steps\[\])\.\w+|source|success|fold)`", page.split("| field |")[1].split("\n\n")[0])
    )
    fields = {f"task.{f}" for f in UserTask.model_fields} | {f"steps[].{f}" for f in UserStep.model_fields}
    assert told == fields | set(UserTrajectory.model_fields) - {"task", "steps"}


def test_the_example_runs_from_its_logs_to_reasoning(tmp_path: Path) -> None:
    logs = tmp_path / "logs" / "keyhouse.jsonl"
    script = [sys.executable, str(ROOT / "examples" / "keyhouse_logs.py"), str(logs), "--tasks", "20"]
    subprocess.run(script, check=True, env={"PYTHONPATH": str(ROOT)}, timeout=HANG_S)
    config = load_config(
        ROOT / "examples" / "keyhouse.yaml", [f"collect.files=[{logs}]", f"env.timeout_s={HANG_S}", f"out={tmp_path}"]
    )
    collect(config)
    annotate(config)
    explained = read_parquet(config.run_dir / "data" / "annotated.parquet")
    assert len(explained) == 18 * 4
    assert all(step.reasoning for trajectory in explained for step in trajectory.steps)
