"""A run goes on where it stopped: what counts as done, what is made again, and who may write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.errors import DataError, DreamgymError
from dreamgym.runs.folder import run_folder
from dreamgym.runs.stage import forget_stage, read_stage, read_stages, stage


def _config(out: Path, *overrides: str) -> RunConfig:
    return load_config(None, [f"out={out}", *overrides])


def _collect(config: RunConfig) -> tuple[bool, dict[str, Any]]:
    with stage(config, "collect", depends=["env", "collect"]) as s:
        if not s.done:
            s.summary["episodes"] = 12
            s.tokens = 340
            s.parts = {"play": 1.5}
        return s.done, s.summary


def _sft(config: RunConfig) -> bool:
    with stage(config, "sft", depends=["world.sft"], upstream=["collect"]) as s:
        return s.done


def test_a_finished_stage_is_not_run_again_and_keeps_what_it_found(tmp_path: Path) -> None:
    config = _config(tmp_path)
    assert _collect(config) == (False, {"episodes": 12})
    assert _collect(config) == (True, {"episodes": 12})
    record = read_stage(config.run_dir, "collect")
    assert record is not None
    assert (record["tokens"], record["parts"], record["summary"]) == (340, {"play": 1.5}, {"episodes": 12})
    assert record["peak_gib"] > 0.01
    assert record["seconds"] >= 0


def test_only_the_settings_that_a_stage_depends_on_undo_it(tmp_path: Path) -> None:
    assert _collect(_config(tmp_path)) == (False, {"episodes": 12})
    assert _collect(_config(tmp_path, "learner.lr=0.5"))[0] is True
    assert _collect(_config(tmp_path, "collect.noisy=3"))[0] is False
    assert _collect(_config(tmp_path, "collect.noisy=3"))[0] is True
    assert _collect(_config(tmp_path))[0] is False


def test_a_changed_stage_undoes_those_after_it(tmp_path: Path) -> None:
    first, second = _config(tmp_path), _config(tmp_path, "collect.tasks=7")
    _collect(first)
    assert _sft(first) is False
    assert _sft(first) is True
    _collect(second)
    assert _sft(second) is False


def test_a_stage_whose_input_is_missing_or_was_made_otherwise_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'collect' is not finished"):
        _sft(_config(tmp_path))
    _collect(_config(tmp_path))
    with pytest.raises(DataError, match=r"collect\.tasks was 600, is now 7"):
        _sft(_config(tmp_path, "collect.tasks=7"))


def test_a_new_content_of_an_input_file_counts_as_a_change(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("{}\n")
    config = _config(tmp_path, f"collect.files=[{data}]")
    _collect(config)
    assert _collect(config)[0] is True
    data.write_text("{}\n{}\n")
    assert _collect(config)[0] is False


def test_a_failed_stage_is_not_done_but_may_go_on_with_its_partial_work(tmp_path: Path) -> None:
    config = _config(tmp_path)
    with pytest.raises(ZeroDivisionError), stage(config, "collect", depends=["collect"]):
        _ = 1 / 0
    assert read_stage(config.run_dir, "collect") is None
    with stage(config, "collect", depends=["collect"]) as s:
        assert s.resuming
        assert not s.done
    with stage(config, "collect", depends=["collect"]) as s:
        assert s.done


def test_partial_work_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage(_config(tmp_path), "collect", depends=["collect"]):
        _ = 1 / 0
    with stage(_config(tmp_path, "collect.tasks=7"), "collect", depends=["collect"]) as s:
        assert not s.resuming


def test_scratch_of_other_settings_is_gone_before_the_stage_begins_and_its_own_stays(tmp_path: Path) -> None:
    def begin(*overrides: str) -> bool:
        """Whether an earlier checkpoint was found; the stage then fails, and leaves one."""
        with (
            suppress(ZeroDivisionError),
            stage(_config(tmp_path, *overrides), "train", ["train"], scratch=["train"]) as s,
        ):
            checkpoint = s.run_dir / "train" / "checkpoint"
            found = checkpoint.exists()
            checkpoint.parent.mkdir(exist_ok=True)
            checkpoint.touch()
            _ = 1 / 0
        return found

    assert not begin("train.groups=2")
    assert begin("train.groups=2", "learner.lr=0.5")
    assert not begin("train.groups=3")


def test_a_stage_that_is_made_again_and_fails_is_no_longer_done(tmp_path: Path) -> None:
    first, second = _config(tmp_path), _config(tmp_path, "collect.tasks=7")
    _collect(first)
    with pytest.raises(ZeroDivisionError), stage(second, "collect", depends=["env", "collect"]):
        _ = 1 / 0
    assert _collect(first)[0] is False


def test_the_time_of_interrupted_attempts_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path)
    with pytest.raises(KeyboardInterrupt), stage(config, "collect", depends=["collect"]):
        raise KeyboardInterrupt
    partial = config.run_dir / "stages" / "collect.partial.json"
    partial.write_text(json.dumps({**json.loads(partial.read_text()), "seconds": 100.0}))
    now = iter([5000.0, 5007.5])
    monkeypatch.setattr("dreamgym.runs.stage.time", SimpleNamespace(monotonic=lambda: next(now)))
    with stage(config, "collect", depends=["collect"]):
        pass
    record = read_stage(config.run_dir, "collect")
    assert record is not None
    assert record["seconds"] == 107.5
    assert not partial.exists()


def test_the_configuration_stands_in_the_folder_and_loads(tmp_path: Path) -> None:
    config = _config(tmp_path, "learner.lr=1e-6")
    _collect(config)
    assert load_config(config.run_dir / "config.yaml") == config
    assert [r["stage"] for r in read_stages(config.run_dir)] == ["collect"]


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from dreamgym.runs.folder import run_folder; from dreamgym.config.loading import load_config\n"
        "with run_folder(load_config(None, ['out=' + sys.argv[1]])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(DreamgymError, match=rf"in use by another dreamgym process \(id {other.pid}\)"):
        _collect(_config(tmp_path))
    other.kill()
    other.communicate()
    assert _collect(_config(tmp_path))[0] is False


def test_stages_inside_a_held_folder_share_the_hold(tmp_path: Path) -> None:
    config = _config(tmp_path)
    with run_folder(config):
        _collect(config)
        _sft(config)
    assert [r["stage"] for r in read_stages(config.run_dir)] == ["collect", "sft"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DreamgymError, match="out: the run folder"):
        _collect(_config(tmp_path / "file"))


def test_a_stage_is_done_where_its_files_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path)
    worked = []

    def make() -> None:
        with stage(config, "collect", ["collect"], makes=["data/train.parquet"]) as s:
            if not s.done:
                worked.append(s.name)
                (s.run_dir / "data").mkdir(exist_ok=True)
                (s.run_dir / "data" / "train.parquet").touch()

    make()
    make()
    assert worked == ["collect"]
    (config.run_dir / "data" / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet of the stage 'collect' is gone; run `dreamgym collect`"):
        _sft(config)
    make()
    assert worked == ["collect", "collect"]
    assert "data/train.parquet is gone" in capsys.readouterr().out
    assert _sft(config) is False


def test_the_record_of_an_older_version_is_refused_and_force_makes_the_stage_anew(tmp_path: Path) -> None:
    config = _config(tmp_path)
    _collect(config)
    file = config.run_dir / "stages" / "collect.json"
    record = json.loads(file.read_text())
    del record["format"], record["files"]
    file.write_text(json.dumps(record | {"fingerprint": "of another time"}))
    for refused in (_collect, _sft):
        with pytest.raises(DataError, match=r"an older dreamgym ran 'collect'.*--force"):
            refused(config)
    assert [r["stage"] for r in read_stages(config.run_dir)] == ["collect"]
    forget_stage(config.run_dir, "collect")
    assert _collect(config)[0] is False
