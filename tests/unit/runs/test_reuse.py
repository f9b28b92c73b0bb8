"""Runs share finished stages: what may be taken over, what stays one's own, and that nobody's files are spoiled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.runs import reuse
from dreamgym.runs.folder import write_text
from dreamgym.runs.reuse import chain, take_over
from dreamgym.runs.stage import fitting_stage, forget_stage, read_stage, stage

NAMES = ("collect", "annotate", "sft-world", "sft-policy")
UPSTREAM = dict(zip(NAMES[1:], NAMES, strict=False))
FILES = {
    "collect": ["data/train.parquet", "data/heldout.parquet"],
    "annotate": ["data/annotated.parquet"],
    "sft-world": ["world"],
    "sft-policy": ["warm_start"],
}
DEPENDS = {"collect": "collect", "annotate": "annotate.by", "sft-world": "world.sft", "sft-policy": "policy.sft"}


def _config(out: Path, name: str, *overrides: str) -> RunConfig:
    return load_config(None, [f"out={out}", f"name={name}", *overrides])


def _run(config: RunConfig, until: str = "sft-policy") -> list[str]:
    """Stages that leave files with their run's name in them; returns those that had to work."""
    worked = []
    for name in NAMES[: NAMES.index(until) + 1]:
        with stage(config, name, [DEPENDS[name]], [UPSTREAM[name]] if name in UPSTREAM else [], FILES[name]) as s:
            if s.done:
                continue
            worked.append(name)
            for file in FILES[name]:
                path = s.run_dir / file
                write_text(path if path.suffix else path / "weights", config.name)
            s.tokens = 7
    return worked


def _donors(out: Path) -> list[Path]:
    return sorted(out.glob("*-seed*"))


def _read(config: RunConfig, file: str) -> str:
    return (config.run_dir / file).read_text()


def test_a_run_with_the_same_settings_makes_nothing_itself(tmp_path: Path) -> None:
    first, second = (_config(tmp_path, name) for name in ("first", "second"))
    _run(first)
    take_over(second, NAMES, _donors(tmp_path))
    assert _run(second) == []
    assert _read(second, "warm_start/weights") == _read(second, "data/train.parquet") == "first"
    for name in NAMES:
        mine, other = (read_stage(config.run_dir, name) for config in (second, first))
        assert mine is not None and other is not None
        assert mine.pop("taken_over_from") == "first-seed0"
        assert mine == other


def test_what_is_taken_over_costs_no_room(tmp_path: Path) -> None:
    first, second = (_config(tmp_path, name) for name in ("first", "second"))
    _run(first)
    take_over(second, NAMES, _donors(tmp_path))
    assert os.path.samefile(first.run_dir / "world" / "weights", second.run_dir / "world" / "weights")


def test_only_what_was_made_with_the_same_settings_is_taken_over(tmp_path: Path) -> None:
    _run(_config(tmp_path, "first"))
    second = _config(tmp_path, "second", "world.sft.lr=0.5")
    take_over(second, NAMES, _donors(tmp_path))
    assert _run(second) == ["sft-world", "sft-policy"]
    assert _read(second, "data/annotated.parquet") == "first"


def test_another_seed_shares_nothing(tmp_path: Path) -> None:
    _run(_config(tmp_path, "first"))
    second = _config(tmp_path, "second", "seed=1")
    take_over(second, NAMES, _donors(tmp_path))
    assert _run(second) == list(NAMES)


def test_the_furthest_of_several_runs_is_taken_from_and_a_run_that_is_as_far_keeps_its_own(tmp_path: Path) -> None:
    short, far, mine = (_config(tmp_path, name) for name in ("a-short", "b-far", "mine"))
    _run(short, until="annotate")
    _run(far)
    _run(mine, until="annotate")
    take_over(mine, NAMES, _donors(tmp_path))
    assert _read(mine, "data/train.parquet") == _read(mine, "warm_start/weights") == "b-far"
    again = _config(tmp_path, "again")
    _run(again)
    take_over(again, NAMES, _donors(tmp_path))
    assert _read(again, "warm_start/weights") == "again"


def test_a_stage_whose_upstream_was_made_anew_otherwise_is_not_taken_over(tmp_path: Path) -> None:
    first = _config(tmp_path, "first")
    _run(first)
    with stage(_config(tmp_path, "first", "collect.tasks=7"), "collect", ["collect"]):
        pass
    second = _config(tmp_path, "second")
    take_over(second, NAMES, _donors(tmp_path))
    assert _run(second) == list(NAMES)


def test_a_record_that_cannot_be_read_is_no_reason_to_stop(tmp_path: Path) -> None:
    first, second = (_config(tmp_path, name) for name in ("first", "second"))
    _run(first)
    (first.run_dir / "stages" / "sft-policy.json").write_text("{")
    take_over(second, NAMES, _donors(tmp_path))
    assert _run(second) == ["sft-policy"]


def test_a_run_in_which_another_process_works_is_left_alone(tmp_path: Path) -> None:
    first, second = (_config(tmp_path, name) for name in ("first", "second"))
    _run(first)
    code = (
        "import sys; from pathlib import Path; from dreamgym.runs.folder import hold\n"
        "with hold(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(first.run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        take_over(second, NAMES, _donors(tmp_path))
        other.stdin.close()
    assert _run(second) == list(NAMES)


def test_making_a_stage_anew_leaves_the_files_of_others_as_they_are(tmp_path: Path) -> None:
    first, second = (_config(tmp_path, name) for name in ("first", "second"))
    _run(first)
    take_over(second, NAMES, _donors(tmp_path))
    _run(_config(tmp_path, "second", "collect.tasks=7"))
    assert _read(second, "data/train.parquet") == "second"
    assert _read(first, "data/train.parquet") == _read(first, "warm_start/weights") == "first"


@pytest.mark.parametrize("after", range(7))
def test_killed_while_taking_over_it_takes_over_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The process ends after any number of its links and records: no stage counts whose files are not whole."""
    first, second = (_config(tmp_path, name) for name in ("first", "second"))
    _run(first)
    _run(second, until="annotate")
    left = [after]

    def mortal(work: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            work(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(reuse, "_link_file", mortal(reuse._link_file))
        patched.setattr(reuse, "keep_stage", mortal(reuse.keep_stage))
        with pytest.raises(KeyboardInterrupt):
            take_over(second, NAMES, _donors(tmp_path))
    for name in NAMES:
        if fitting_stage(second, name, second.run_dir):
            assert all((second.run_dir / file).exists() for file in FILES[name])
    take_over(second, NAMES, _donors(tmp_path))
    assert _run(second) == []
    assert {_read(second, f) for f in ("data/train.parquet", "world/weights", "warm_start/weights")} == {"first"}


def test_the_chain_of_a_stage_is_all_before_it_once(tmp_path: Path) -> None:
    config = _config(tmp_path, "first")
    _run(config)
    assert chain(config.run_dir, "sft-policy") == list(NAMES)
    forget_stage(config.run_dir, "sft-policy")
    assert read_stage(config.run_dir, "sft-policy") is None
