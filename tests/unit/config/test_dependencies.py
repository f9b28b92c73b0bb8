"""What undoes a stage: every field that it may read, and nothing that changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dreamgym.cli import main
from dreamgym.commands import annotate, collect, dpo, evaluate, real, sft, train
from dreamgym.config import RunConfig
from dreamgym.config.loading import describe_fields, load_config
from dreamgym.errors import ConfigError
from dreamgym.runs.fingerprint import settings_of
from dreamgym.runs.folder import run_folder
from tests.tiny import operational

FIELDS = [field.name for field in describe_fields()]
WORDS = ["true", "false", "0", "1", "2", "3", "7", "0.25", "0.75", "0.9", "1.5", "64", "128", "1024", "4096", "null"]
WORDS += ["another", "[x]", "{x: 1}", "[tensorboard]", "[/x.jsonl]", "teacher", "debug", "cpu", "muon", "gspo"]
WORDS += ["checker", "sequence_mean", "k2", "engine", "real", "train", "float32", "turn", "react", "penalty", "window"]
WORDS += ["dream"]
"""Of these one at least is another value of any field."""
ASKED_FOR = {
    "train.colocate": ["policy.engine.gpu_memory_utilization=0.3", "world.engine.gpu_memory_utilization=0.3"],
    "world.refresh.transitions": ["world.refresh.every=2"],
}
"""What a field asks of others before it can be set."""


class Asked(Exception):
    """A stage that says what it depends on, and goes no further."""


def changed(name: str) -> tuple[RunConfig, RunConfig]:
    """Two configurations in which one field alone differs."""
    default = load_config(None, ASKED_FOR.get(name, []))
    for word in WORDS:
        try:
            config = load_config(None, [f"{name}={word}", *ASKED_FOR.get(name, [])])
        except ConfigError:
            continue
        if config != default:
            return default, config
    raise LookupError(f"{name}: none of the words is another value")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sequence[str]]:
    """The sections that each stage depends on itself, as its command tells `stage`."""
    found: dict[str, Sequence[str]] = {}

    @contextmanager
    def asked(config: RunConfig, name: str, depends: Sequence[str], *rest: Any, **more: Any) -> Iterator[None]:
        found[name] = depends
        raise Asked
        yield

    config = load_config(None, [f"out={tmp_path_factory.mktemp('runs')}", "real.transitions=1000"])
    calls: list[tuple[Any, Callable[[], Any]]] = [
        (collect, lambda: collect.collect(config)),
        (annotate, lambda: annotate.annotate(config)),
        (sft, lambda: sft.sft_world(config)),
        (sft, lambda: sft.sft_policy(config)),
        (dpo, lambda: dpo.dpo(config)),
        (train, lambda: train.train(config)),
        (real, lambda: real.real(config)),
        (evaluate, lambda: evaluate.evaluate(config, "policy")),
        (evaluate, lambda: evaluate.evaluate(config, "random")),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module, call in calls:
            patch.setattr(module, "stage", asked)
            with pytest.raises(Asked):
                call()
    return found


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_undoes_a_stage_or_says_where_it_is_defined_that_it_changes_nothing(
    name: str, stages: dict[str, Sequence[str]]
) -> None:
    before, after = changed(name)
    undone = {stage for stage, depends in stages.items() if settings_of(before, depends) != settings_of(after, depends)}
    assert bool(undone) is not operational(name)


def test_a_file_counts_by_its_content_wherever_it_lies_and_whenever_it_was_written(tmp_path: Path) -> None:
    def settings(folder: str, text: str) -> dict[str, Any]:
        file = tmp_path / folder / "mine.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        os.utime(file, (len(folder), len(folder)))
        (file.parent / f"beside-{folder}").touch()
        return settings_of(load_config(None, [f"collect.files=[{file}]"]), ["collect"])

    assert settings("job-1", "{}") == settings("another-job", "{}")
    assert settings("job-1", "{}") != settings("job-1", "{ }")


def test_a_run_folder_stands_for_the_recipe_and_all_that_was_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamgym.runtime.processes.TREE.end", lambda: None)  # children of the other tests live on
    told: list[RunConfig] = []
    monkeypatch.setattr(annotate, "annotate", told.append)
    made = load_config(None, [f"out={tmp_path / 'runs'}", "name=mine", "seed=3", "collect.tasks=40"])
    with run_folder(made):
        pass
    assert main(["annotate", str(made.run_dir)]) == 0
    assert main(["annotate", str(made.run_dir), "annotate.by=none"]) == 0
    moved = tmp_path / "elsewhere" / made.run_dir.name
    moved.parent.mkdir()
    made.run_dir.rename(moved)
    assert main(["annotate", str(moved)]) == 0
    same, other, far = told
    assert (same, other.annotate.by, far.run_dir) == (made, "none", moved)
    assert far.collect.tasks == 40
    moved.rename(moved.with_name("renamed"))
    assert main(["annotate", str(moved.with_name("renamed"))]) == 2
    assert main(["annotate", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "holds the run 'mine-seed3'" in said and "a folder without config.yaml" in said
