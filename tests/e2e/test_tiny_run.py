"""The whole way on real parts, tiny: game server, DeepSpeed, vLLM, Serve, Qdrant, report; then again, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import dreamgym as dreamgym_api
from dreamgym.runs.ledger import account
from dreamgym.runs.log import read_log
from dreamgym.schema import read_parquet
from dreamgym.telemetry.metrics import COUNTERS, GAUGES, exported_name
from tests.grafana import Labels, Scraper, selectors
from tests.tiny import DREAM, PATIENT, RECIPE, operational
from tests.waiting import until

pytestmark = pytest.mark.timeout(7200)
TINY = [
    *DREAM,
    *PATIENT,
    "name=tiny",
    "collect.heldout_tasks=2",
    "world.sampling.max_tokens=48",
    "replay.top_k=1",
    "train.iterations=3",
    "train.groups=4",
    "train.group_size=4",
    "train.eval_every=3",
    "train.eval_games=4",
    "train.checkpoint_every=1",
    "real.transitions=200",
    "real.groups=2",
    "eval.games=12",
    "policy.engine.export_stats=true",
    "world.engine.export_stats=true",
]


def dreamgym(command: str, out: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "dreamgym.cli", command, str(RECIPE), *TINY, f"out={out}", *more]
    return subprocess.run(call, capture_output=True, text=True, timeout=3600, env=os.environ | environment)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Labels]]]:
    """A finished run, and what it exported to Prometheus while it went on."""
    out = tmp_path_factory.mktemp("runs")
    notes = out / "notes"
    notes.mkdir()
    path = os.pathsep.join([str(Path(__file__).parent / "reads"), os.environ.get("PYTHONPATH", "")])
    reads = f"{notes}:{out / 'tiny-seed0'}"
    scraper = Scraper(os.getpid())
    done = dreamgym("quickstart", out, PYTHONPATH=path, DREAMGYM_TEST_READS=reads)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out / "tiny-seed0", scraper.close()


@pytest.fixture(scope="module")
def run(watched: tuple[Path, dict[str, list[Labels]]]) -> Path:
    return watched[0]


def test_every_stage_leaves_what_it_promises(run: Path) -> None:
    for name in ("config.yaml", "report.html", "report.md", "report.json", "train/metrics.jsonl", "train/tasks.json"):
        assert (run / name).stat().st_size > 0, name
    for model in ("world", "warm_start", "policy", "policy_real"):
        assert (run / model / "model.safetensors").exists() and (run / model / "tokenizer.json").exists()
    for who in ("warm_start", "policy", "policy_real"):
        result = json.loads((run / "eval" / f"{who}-test.json").read_text())
        assert result["games"] + result["env_failed"] == 12
        assert len(result["results"]) == len(set(result["game_ids"])) == result["games"]


def test_whatever_a_stage_reads_undoes_it_or_is_said_to_change_nothing(run: Path) -> None:
    """What every process of the run has read, in each stage, is held against what the stage's record says counts."""
    read: dict[str, set[str]] = {}
    for line in (line for notes in (run.parent / "notes").iterdir() for line in notes.read_text().splitlines()):
        name, field = line.split()
        read.setdefault(name, set()).add(field)
    records = dreamgym_api.Run(run).stages
    assert read.keys() == records.keys()

    def counted(name: str) -> set[str]:
        """Dotted names that undo a stage, by itself or by a stage before it."""
        return {*records[name]["settings"]}.union(*(counted(before) for before in records[name]["upstream"]))

    for name, fields in read.items():
        sections = counted(name)
        missed = {
            field
            for field in fields
            if not operational(field) and not any(f"{field}.".startswith(f"{section}.") for section in sections)
        }
        assert not missed, f"{name} reads {missed}, and does not say so"
    assert {"world.sft.grad_clip", "world.engine.max_model_len"} <= read["sft-world"]


def test_the_python_api_opens_the_run(run: Path) -> None:
    opened = dreamgym_api.Run(run)
    assert opened.metrics().num_rows == len(read_log(run / "train" / "metrics.jsonl"))
    assert set(opened.trajectories()["world"].to_pylist()) == {"dream"}
    assert set(opened.trajectories("real")["world"].to_pylist()) == {"real"}
    assert len(opened.checkpoints()) == opened.config.train.keep_checkpoints
    model, tokenizer = opened.policy()
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    record = json.loads((run / "eval" / "policy-test.json").read_text())
    assert opened.score() == record, "a score that is there is not measured again"


def test_the_dream_is_played_by_hand_and_what_is_judged_measures_it(run: Path) -> None:
    """One engine, and no Ray: there is none at this address."""

    def by_hand(*words: str, typed: str = "") -> str:
        call = [sys.executable, "-m", "dreamgym.cli", *words]
        env = os.environ | {"RAY_ADDRESS": "127.0.0.1:9", "COLUMNS": "200"}
        done = subprocess.run(call, input=typed, capture_output=True, text=True, timeout=3600, env=env)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    seed = read_parquet(run / "data" / "annotated.parquet")[0]
    first = seed.steps[0]
    lines = [first.action, "/real", "/unreadable", "/back", "no such action", "/unreadable", "/quit"]
    told = by_hand("play", str(run), "--task", seed.task.id, typed="\n".join(lines))
    assert seed.task.instruction in told and f"for real: {first.next_state}" in told
    assert "shown 1.00 real: " in told, "the buffer holds this very step"
    judged = [json.loads(line) for line in (run / "judged.jsonl").read_text().splitlines()]
    assert [step["said"]["action"] for step in judged] == [first.action, "no such action"]
    assert judged[0]["truth"]["next_state"] == first.next_state
    for step in judged:
        assert step["said"]["state"] == seed.task.first_state and not step["history"]
        assert bool(step["said"]["next_state"]) != bool(step["error"])
        assert step["truth_by"] == "real" and step["truth"]["reasoning"]
    assert "on 2 steps" in by_hand("fidelity", str(run), "--judged")


def test_engines_and_learner_agree_at_every_step(run: Path) -> None:
    """Too few tokens to resolve 99.9% of them: 0.01 nats on average, and 0.05 on all but one in 200."""
    steps = [r for r in read_log(run / "train" / "metrics.jsonl") if "learner/gap_mean" in r]
    assert steps
    assert max(r["learner/gap_mean"] for r in steps) <= 0.01
    apart = sum(r["learner/gap_over"] * r["learner/trained_tokens"] for r in steps)
    assert apart <= sum(r["learner/trained_tokens"] for r in steps) / 200


def test_the_engines_are_spared_what_they_have_read_or_dreamed_before(run: Path) -> None:
    """Counts, not times: prompts that grow at their end, and beginnings that a group has in common."""
    steps = [r for r in read_log(run / "train" / "metrics.jsonl") if r["kind"] == "iteration"]
    assert min(r["rollout/dream_cache_hit"] for r in steps) > 0.75
    assert min(r["rollout/policy_cache_hit"] for r in steps) > 0.65
    assert min(r["rollout/dream_shared"] for r in steps) > 0


def test_every_query_of_the_dashboard_is_answered_by_the_running_job(
    watched: tuple[Path, dict[str, list[Labels]]],
) -> None:
    """Ray exports a counter once it has counted: those that the run's own log has at 0 are not there yet."""
    run, exported = watched
    records = read_log(run / "train" / "metrics.jsonl")
    wrote = {exported_name(key): key for record in records for key in record}
    known = {exported_name(key): key for key in (*GAUGES, *COUNTERS)} | wrote
    now_and_then = {"learner/skipped", "again/kept", "again/obeyed"}

    def nothing_yet(metric: str) -> bool:
        key = known.get(metric.removeprefix("ray_").removesuffix("_total"), "")
        if key in now_and_then:
            return key not in wrote.values()
        if metric.startswith("ray_dreamgym_replay_refused_"):
            return not any(record.get(key) for record in records)
        if metric == "ray_vllm_num_preemptions_total":
            return True
        return metric.endswith("_total") and key in wrote.values() and not any(record.get(key) for record in records)

    missing = []
    for query in selectors():
        samples = exported.get(query.metric, [])
        ours = [one for one in samples if "run" not in query.matched or one.get("run") == "tiny-seed0"]
        if not any(one.keys() >= query.kept for one in ours) and not nothing_yet(query.metric):
            missing.append(f"{query.panel}: {query.metric} by {sorted(query.kept)}")
    assert missing == []


def test_the_learner_reads_every_token_of_a_batch_once(run: Path) -> None:
    """No padding, and no second pass for old logprobs where the engine's are taken; a worker without a row reads 1."""
    steps = [r for r in read_log(run / "train" / "metrics.jsonl") if "learner/passes" in r]
    assert steps
    assert all(1 <= r["learner/passes"] < 1.01 for r in steps)


def test_nothing_real_is_learned_from_and_the_test_fold_is_not_touched(run: Path) -> None:
    summary = json.loads((run / "stages" / "train.json").read_text())["summary"]
    assert summary["real_transitions_learned"] == 0 < summary["dream_transitions"]
    test_games = set(json.loads((run / "eval" / "policy-test.json").read_text())["game_ids"])
    for file in run.rglob("*.parquet"):
        if b"dreamgym.schema" in (pq.read_schema(file).metadata or {}):
            assert not test_games & {t.task.id for t in read_parquet(file)}, file


def test_after_the_dream_real_rollouts_are_learned_from_within_their_budget_in_whole_groups(run: Path) -> None:
    summary = json.loads((run / "stages" / "real.json").read_text())["summary"]
    steps = [r for r in read_log(run / "real" / "metrics.jsonl") if r["kind"] == "iteration"]
    assert [r["iteration"] for r in steps] == [3 + i for i in range(1, summary["iterations"] + 1)]
    batches = [read_parquet(file) for file in sorted((run / "real" / "trajectories").glob("*.parquet"))]
    played = [t for batch in batches for t in batch]
    assert {t.world for t in played} == {"real"}
    assert all(set(Counter(t.group for t in batch).values()) == {4} for batch in batches)
    learned = sum(len(t.steps) for t in played if t.status == "ok")
    assert learned == summary["real_transitions_learned"] == sum(r["learner/real_transitions"] for r in steps)
    assert 200 - 4 * 12 < learned <= 200
    assert "real transitions in RL" in (run / "report.md").read_text()


def test_what_the_learner_sees_is_what_the_policy_sampled(run: Path) -> None:
    """An iteration whose groups were all flat teaches nothing: the weights and their version stay as they are."""
    steps = [r for r in read_log(run / "train" / "metrics.jsonl") if r["kind"] == "iteration"]
    updates = [r["iteration"] for r in steps if not r.get("learner/skipped")]
    assert updates
    for index, file in enumerate(sorted((run / "train" / "trajectories").glob("*.parquet"))):
        for t in read_parquet(file):
            assert t.world == "dream" and t.iteration == index
            for sample in t.samples:
                assert len(sample.ids) == len(sample.mask) == len(sample.logprobs) == len(sample.versions)
                sampled = {v for v, m in zip(sample.versions, sample.mask, strict=True) if m}
                latest = max((u for u in updates if u <= index), default=0)
                assert sampled == ({latest} if t.steps else set()), "an episode may end before its first answer"


def test_a_second_call_does_nothing_again(run: Path) -> None:
    """It does not even look for a Ray: there is none at this address."""
    before = (run / "stages" / "train.json").read_bytes()
    done = dreamgym("train", run.parent, RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 0 and "done before" in done.stdout
    assert (run / "stages" / "train.json").read_bytes() == before


def losses(records: list[dict[str, Any]]) -> dict[int, float | None]:
    """The loss of each iteration; None where all groups were flat, so that nothing was learned."""
    return {r["iteration"]: r.get("learner/loss") for r in records if r["kind"] == "iteration"}


def test_killed_in_training_it_goes_on_from_its_checkpoint_with_what_was_played(run: Path) -> None:
    more = ["train.iterations=5", "train.eval_every=0", "curriculum.generated_share=0", "train.checkpoint_every=2"]
    call = [sys.executable, "-m", "dreamgym.cli", "train", str(RECIPE), *TINY, f"out={run.parent}", *more]
    played = [run / "train" / "trajectories" / f"iteration-{index:05d}.parquet" for index in range(5)]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until("the fourth iteration", lambda: played[3].exists() or process.poll() is not None)
    assert played[3].exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = [read_parquet(path) for path in played[:4]]
    first = losses(read_log(run / "train" / "metrics.jsonl"))
    done = dreamgym("train", run.parent, *more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "going on" in done.stdout
    assert [read_parquet(path) for path in played[:4]] == before
    steps = [r for r in read_log(run / "train" / "metrics.jsonl") if r["kind"] == "iteration"]
    assert [r["iteration"] for r in steps] == [1, 2, 3, 4, 5]
    again = {iteration: loss for iteration, loss in losses(steps).items() if iteration in first}
    assert 3 in again
    assert again == {i: None if loss is None else pytest.approx(loss, rel=1e-4) for i, loss in first.items()}
    updates = [r["learner/updates"] for r in steps if not r.get("learner/skipped")]
    assert updates == list(range(1, len(updates) + 1))
    told = account(run / "train" / "ledger.jsonl")
    assert told.started == told.finished == 5 * 16
    assert (told.resumed, told.lost, told.trained_twice) == (1, 0, 0)


def test_rollouts_beside_the_learner_are_no_older_than_allowed_and_all_are_learned_from(run: Path) -> None:
    more = ["train.iterations=4", "train.max_staleness=1", "train.eval_every=0", "curriculum.generated_share=0"]
    done = dreamgym("train", run.parent, *more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = [r for r in read_log(run / "train" / "metrics.jsonl") if r["kind"] == "iteration"]
    assert [r["iteration"] for r in steps] == [1, 2, 3, 4]
    assert max(r["rollout/staleness_max"] for r in steps) == 1
    updates = [0, *(r["iteration"] for r in steps if not r.get("learner/skipped"))]
    for index, file in enumerate(sorted((run / "train" / "trajectories").glob("*.parquet"))):
        begun, learned = (max(u for u in updates if u <= max(at, 0)) for at in (index - 1, index))
        samples = [s for t in read_parquet(file) for s in t.samples]
        versions = {v for s in samples for v, m in zip(s.versions, s.mask, strict=True) if m}
        assert begun in versions and versions <= {begun, learned}
        assert {t.iteration for t in read_parquet(file)} == {index}


def test_the_dream_is_refreshed_from_buffer_and_corrections_only_where_it_stays_true(run: Path) -> None:
    refresh = ["world.refresh.every=1", "world.refresh.sft.tokens=8000", "replay.consistency_share=1"]
    refresh += ["world.refresh.transitions=40", "train.eval_every=1", "train.eval_games=2", "train.branched=0.5"]
    done = dreamgym("train", run.parent, *refresh, "train.iterations=2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = [r for r in read_log(run / "train" / "metrics.jsonl") if r.get("refresh/dreams")]
    assert steps, "the gate let dreams in, and a copy learned from them"
    for r in steps:
        shares = [key.removesuffix("_before") for key in r if key.endswith("_before")]
        assert {"refresh/state_exact", "refresh/outcome_accuracy"} <= {*shares}
        assert r["refresh/promoted"] == (not any(r[f"{share}_after"] < r[f"{share}_before"] for share in shares))
        assert r["refresh/corrections"] > 0
    promoted = [r["iteration"] for r in steps if r["refresh/promoted"]]
    states = [json.loads(path.read_text()) for path in sorted((run / "train" / "checkpoints").glob("*/state.json"))]
    for state in states:
        before = [i for i in promoted if i <= state["iteration"]]
        assert state["world"] == (f"world-{before[-1]:05d}" if before else "world")
    kept = {path.name for path in (run / "train").glob("world-*")}
    assert kept == {state["world"] for state in states} - {"world"}
    _corrections_are_counted_and_branches_go_on(run)


def _corrections_are_counted_and_branches_go_on(run: Path) -> None:
    """Every real transition that the experience model learned from, and only those; and where dreams began."""
    records = read_log(run / "train" / "metrics.jsonl")
    learned = [r["correct/transitions"] for r in records if "correct/transitions" in r]
    assert len(learned) == 2 and 0 < max(learned) <= 40
    summary = json.loads((run / "stages" / "train.json").read_text())["summary"]
    assert (
        summary["real_transitions_learned"]
        == sum(learned)
        == sum(r.get("learner/real_transitions", 0) for r in records)
    )
    newest = sorted((run / "train" / "checkpoints").iterdir())[-1]
    taken = read_parquet(newest / "corrections.parquet")
    assert {(t.world, t.fold) for t in taken} == {("real", "train")}
    played = [t for file in sorted((run / "train" / "trajectories").glob("*.parquet")) for t in read_parquet(file)]
    branched = [t for t in played if t.group != t.task.id]
    assert 0 < len(branched) < len(played)
    recorded = {t.id: t for t in read_parquet(run / "data" / "annotated.parquet")}
    for t in branched:
        episode, _, start = t.group.rpartition("+")
        assert recorded[episode].success and recorded[episode].task.id == t.task.id
        if t.steps:
            assert t.steps[0].state == recorded[episode].steps[int(start)].state
            assert len(t.steps) + int(start) <= 12


def test_an_experiment_shares_finished_stages_and_goes_on_after_a_failure(run: Path) -> None:
    def experiment(budget: int) -> subprocess.CompletedProcess[str]:
        common = [word for word in TINY if not word.startswith(("train.iterations=", "real.transitions="))]
        words = ["table1", str(RECIPE), *common, f"out={run.parent}", f"real_grpo:real.transitions={budget}"]
        call = [sys.executable, "-m", "dreamgym.cli", "experiment", *words, "--seeds", "0"]
        return subprocess.run(
            [*call, "--rows", "warm_start,real_grpo"], capture_output=True, text=True, timeout=3600, check=False
        )

    def rows() -> dict[str, dict[str, Any]]:
        table = json.loads((run.parent / "table1_mapreader.json").read_text())
        return {row["name"]: row for row in table["rows"]}

    failed = experiment(budget=1)
    assert failed.returncode == 2, failed.stdout[-3000:] + failed.stderr[-3000:]
    assert "no room for a group" in failed.stderr and "1 of 2 jobs failed (real_grpo seed 0)" in failed.stderr
    assert list(rows()) == ["warm_start"]
    before = rows()["warm_start"]

    done = experiment(budget=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "warm_start" not in [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    start, real = rows().values()
    assert start == before
    assert 200 - 4 * 12 < real["real_transitions"] <= 200 and start["real_transitions"] == 0
    assert real["games"] + real["per_seed"][0]["env_failed"] == 12
    assert real["tokens"] > start["tokens"] > 0 and real["minutes"] > start["minutes"]
    shared = {s["stage"]: s["taken_over_from"] for s in real["per_seed"][0]["stages"]}
    assert shared.pop("train") is None and set(shared.values()) == {"tiny-seed0"}
    job = run.parent / "tiny-real_grpo-seed0"
    assert os.path.samefile(run / "warm_start" / "model.safetensors", job / "warm_start" / "model.safetensors")
    assert json.loads((job / "result.json").read_text()) == real["per_seed"][0]
    assert {t.world for t in read_parquet(job / "train" / "trajectories" / "iteration-00000.parquet")} == {"real"}
    assert "GRPO on real rollouts" in (run.parent / "table1_mapreader.md").read_text()

    again = experiment(budget=200)
    assert again.returncode == 0 and "▶" not in again.stdout
