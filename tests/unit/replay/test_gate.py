"""The write gate refuses exactly what it says, and counts it by reason."""

from __future__ import annotations

import dataclasses

import pytest

from dreamgym.config import ReplayConfig
from dreamgym.replay import Candidate, Outcome, StoredTransition
from dreamgym.replay.gate import WriteGate

DREAM = StoredTransition("t", "e", 1, "kitchen", "go north", "hall", 0.0, False, "why", "dream", "world-3", 4)
REAL = dataclasses.replace(DREAM, world="real", model_version="", iteration=-1)
SAME = Outcome(0.0, False)


@pytest.mark.parametrize(
    ("candidate", "similarity", "reason"),
    [
        (Candidate(DREAM, again=SAME), 0.5, "admitted"),
        (Candidate(DREAM, again=SAME), 0.9799, "admitted"),
        (Candidate(DREAM, again=SAME), 0.98, "duplicate"),
        (Candidate(DREAM, status="env_failed", again=SAME), 0.5, "env_failed"),
        (Candidate(DREAM, again=Outcome(1.0, False)), 0.5, "inconsistent"),
        (Candidate(DREAM, again=Outcome(0.0, True)), 0.5, "inconsistent"),
        (Candidate(DREAM), 0.5, "unchecked"),
        (Candidate(dataclasses.replace(DREAM, model_version=""), again=SAME), 0.5, "incomplete"),
        (Candidate(dataclasses.replace(DREAM, next_state="  "), again=SAME), 0.5, "incomplete"),
        (Candidate(dataclasses.replace(DREAM, reward=float("nan")), again=SAME), 0.5, "incomplete"),
        (Candidate(REAL), 1.0, "admitted"),
        (Candidate(REAL, status="env_failed"), 0.0, "env_failed"),
        (Candidate(dataclasses.replace(REAL, trajectory_id="")), 0.0, "incomplete"),
    ],
)
def test_verdicts(candidate: Candidate, similarity: float, reason: str) -> None:
    gate = WriteGate(ReplayConfig(), seed=0)
    verdict = gate.decide(candidate, similarity)
    assert verdict.reason == reason
    assert verdict.admitted == (reason == "admitted")
    assert dict(gate.refused) == ({} if verdict.admitted else {reason: 1})


def test_without_the_consistency_check_nobody_asks_twice() -> None:
    gate = WriteGate(ReplayConfig(consistency=False), seed=0)
    assert gate.decide(Candidate(DREAM), 0.1).admitted


def test_screening_needs_no_second_answer() -> None:
    gate = WriteGate(ReplayConfig(), seed=0)
    assert gate.screen(Candidate(DREAM), 0.1).admitted
    assert gate.screen(Candidate(DREAM), 0.99).reason == "duplicate"
    assert gate.screen(Candidate(DREAM, status="env_failed"), 0.1).reason == "env_failed"
    assert dict(gate.refused) == {"duplicate": 1, "env_failed": 1}


def test_the_share_offered_is_as_configured_and_fixed_by_the_seed() -> None:
    ids = [f"episode-{n}" for n in range(4000)]
    gate, same, other = (WriteGate(ReplayConfig(consistency_share=0.1), seed) for seed in (1, 1, 2))
    offered = {i for i in ids if gate.is_offered(i)}
    assert 0.08 < len(offered) / len(ids) < 0.12
    assert offered == {i for i in ids if same.is_offered(i)}
    assert offered != {i for i in ids if other.is_offered(i)}
    assert not any(WriteGate(ReplayConfig(consistency_share=0.0), 1).is_offered(i) for i in ids)
    assert all(WriteGate(ReplayConfig(consistency_share=1.0), 1).is_offered(i) for i in ids)
