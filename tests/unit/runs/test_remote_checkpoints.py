"""Checkpoints in a second place: another machine goes on with them, whatever was killed when, and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from test_ledger import GROUPS, ITERATIONS, SIZE, Fate, Killed, Parts, check, live, mortal, small

from dreamgym.commands import doctor
from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.errors import ConfigError, DataError
from dreamgym.runs import remote_folder
from dreamgym.runs.remote_checkpoints import RemoteCheckpoints, _inside, fetch_before, open_remote_checkpoints
from dreamgym.runs.remote_folder import MARKER, RemoteFolder
from dreamgym.runs.stage import Stage, read_stage, stage
from dreamgym.training.checkpoints import checkpoints

BEFORE = {"collect": "data/train.parquet", "annotate": "data/annotated.parquet", "sft-world": "world/a/model.bin"}
BEFORE |= {"sft-policy": "warm_start/model.bin"}
EPISODES = ITERATIONS * GROUPS * SIZE
DEPENDS = {"collect": ["collect"], "annotate": ["annotate"], "sft-world": ["world.sft"], "sft-policy": ["policy.sft"]}


def make_before(config: RunConfig, mark: str = "") -> None:
    """The stages before `train`, each with a file that tells of its making."""
    upstream: list[str] = []
    for name, file in BEFORE.items():
        files = [file.partition("/")[0]] if name.startswith("sft") else [file]
        with stage(config, name, DEPENDS[name], upstream, files) as current:
            if not current.done:
                (current.run_dir / file).parent.mkdir(parents=True, exist_ok=True)
                (current.run_dir / file).write_text(name + mark)
        upstream = [name]


def run(config: RunConfig, fate: Fate, takes: Iterator[int]) -> Parts:
    """The stage `train` until its end or its death."""
    fetch_before(config, "train", "sft-policy")
    with stage(config, "train", ["train"], ["sft-policy"], ["train"], ["train"]) as current:
        return live(config, fate, takes, open_remote_checkpoints(config, current, "sft-policy"))


def put(config: RunConfig, *iterations: int) -> Stage:
    """Checkpoints in a stage that has not ended, one after another; as after a kill."""
    with suppress(Killed), stage(config, "train", ["train"], ["sft-policy"], ["train"], ["train"]) as current:
        mirror = open_remote_checkpoints(config, current, "sft-policy")
        for iteration in iterations:
            folder = current.run_dir / "train" / "checkpoints" / f"iteration-{iteration:05d}"
            (folder / "learner").mkdir(parents=True)
            (folder / "learner" / "weights.bin").write_bytes(bytes(1000 + iteration))
            (folder / "state.json").write_text(str(iteration))
            for name in ("ledger.jsonl", "metrics.jsonl"):
                (current.run_dir / "train" / name).write_text(f"{name} at {iteration}\n")
            if mirror is not None:
                mirror.put(folder)
        raise Killed
    return current


def go_on(config: RunConfig) -> list[str]:
    """What `train` begins with: the names of its checkpoints."""
    put(config)
    return [path.name for path in checkpoints(config.run_dir / "train")]


def without_place(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_uri": ""})})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(params=["file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place of Arrow's own, and one of fsspec's."""
    yield f"file://{tmp_path}/far/away" if request.param == "file" else "memory://far/away"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def here(tmp_path: Path, uri: str) -> RunConfig:
    return load_config(None, [f"out={tmp_path / 'here'}", f"train.checkpoint_uri={uri}"])


@pytest.fixture
def there(here: RunConfig, tmp_path: Path) -> RunConfig:
    """The same run on another machine."""
    return here.model_copy(update={"out": tmp_path / "there"})


def test_an_empty_machine_gets_the_newest_checkpoint_and_all_that_it_rests_on(
    here: RunConfig, there: RunConfig
) -> None:
    make_before(here)
    put(here, 10, 20)
    fetch_before(there, "train", "sft-policy")
    assert go_on(there) == ["iteration-00020"]
    mine, its = files(here.run_dir), files(there.run_dir)
    assert {name: mine[name] for name in its if name not in ("config.yaml", "stages/train.partial.json", ".lock")} == {
        name: content
        for name, content in its.items()
        if name not in ("config.yaml", "stages/train.partial.json", ".lock")
    }
    assert {*BEFORE.values(), "train/ledger.jsonl", "train/metrics.jsonl"} < its.keys()
    assert all(read_stage(there.run_dir, name) == read_stage(here.run_dir, name) for name in BEFORE)


def test_a_run_folder_with_a_checkpoint_keeps_to_it(here: RunConfig, there: RunConfig) -> None:
    make_before(here)
    make_before(there)
    put(there, 5)
    put(here, 10)
    assert go_on(there) == ["iteration-00005"]


def test_models_that_were_made_again_here_give_way_to_those_that_the_checkpoint_was_trained_from(
    here: RunConfig, there: RunConfig
) -> None:
    make_before(here, " as it was")
    put(here, 10)
    make_before(there, " another time")
    assert go_on(there) == ["iteration-00010"]
    assert (there.run_dir / "warm_start" / "model.bin").read_text() == "sft-policy as it was"
    assert read_stage(there.run_dir, "sft-policy") == read_stage(here.run_dir, "sft-policy")


def test_checkpoints_from_another_making_of_the_models_are_not_kept_beside_new_ones(
    here: RunConfig, there: RunConfig, tmp_path: Path
) -> None:
    make_before(here)
    put(here, 10, 30)
    make_before(there, " anew")
    put(without_place(there), 5)
    put(there, 20)
    third = here.model_copy(update={"out": tmp_path / "third"})
    fetch_before(third, "train", "sft-policy")
    assert go_on(third) == ["iteration-00020"]
    assert (third.run_dir / "warm_start" / "model.bin").read_text() == "sft-policy anew"


def test_what_was_made_with_other_settings_is_left_alone(here: RunConfig, there: RunConfig) -> None:
    make_before(here)
    put(here, 10)
    learns_otherwise = there.model_copy(update={"train": there.train.model_copy(update={"groups": 3})})
    fetch_before(learns_otherwise, "train", "sft-policy")
    assert go_on(learns_otherwise) == []
    shutil.rmtree(there.run_dir)
    begins_otherwise = there.model_copy(
        update={"seed": there.seed, "collect": there.collect.model_copy(update={"tasks": 3})}
    )
    fetch_before(begins_otherwise, "train", "sft-policy")
    with pytest.raises(DataError, match="'sft-policy' is not finished"):
        go_on(begins_otherwise)
    fetch_before(there, "train", "sft-policy")
    assert go_on(there) == ["iteration-00010"]


def test_the_last_ones_stay_and_remains_go(here: RunConfig, uri: str) -> None:
    make_before(here)
    current = put(here, 10)
    far, home = RemoteFolder(uri, "here"), f"{here.run_dir.name}/train-{current.fingerprint}"
    far._write(f"{home}/iteration-00015/train/ledger.jsonl", b"cut o")
    put(here, 20, 30)
    assert here.train.keep_checkpoints == 2
    assert far.folders(home) == ["before", "iteration-00020", "iteration-00030"]


@pytest.mark.parametrize("marker", [b"", b'{"files": {"train/', b"[]", b"{}"])
def test_a_marker_that_was_cut_off_is_none(here: RunConfig, there: RunConfig, uri: str, marker: bytes) -> None:
    make_before(here)
    current = put(here, 10, 20)
    home = f"{here.run_dir.name}/train-{current.fingerprint}"
    RemoteFolder(uri, "here")._write(f"{home}/iteration-00020/{MARKER}", marker)
    fetch_before(there, "train", "sft-policy")
    assert go_on(there) == ["iteration-00010"]


@pytest.mark.parametrize("name", ["/elsewhere", "../elsewhere", "data/../../elsewhere"])
def test_a_record_from_elsewhere_names_no_file_outside_the_run_folder(name: str) -> None:
    assert not _inside(name)
    assert all(map(_inside, ["data/train.parquet", "world", "eval/policy-test.json"]))


def test_a_file_that_is_not_what_it_was_is_no_checkpoint(here: RunConfig, there: RunConfig, uri: str) -> None:
    make_before(here)
    current = put(here, 10)
    home = f"{here.run_dir.name}/train-{current.fingerprint}"
    RemoteFolder(uri, "here")._write(f"{home}/iteration-00010/train/checkpoints/iteration-00010/state.json", b"")
    fetch_before(there, "train", "sft-policy")
    with pytest.raises(DataError, match=r"train\.checkpoint_uri=.*iteration-00010 are missing or cut off"):
        put(there)
    assert checkpoints(there.run_dir / "train") == []


def mortal_place(fate: Fate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills between files that are copied, and around each that is written or removed."""
    copy = remote_folder.copy_files

    def copied(source: str, target: str, *systems: Any, **options: Any) -> None:
        fate.moment()
        for file in sorted(p for p in Path(source).rglob("*") if p.is_file())[:1]:
            part = f"{target}/{file.relative_to(source)}"
            systems[1].create_dir(part.rpartition("/")[0])
            copy(str(file), part, *systems, **options)
            fate.moment()
        copy(source, target, *systems, **options)
        fate.moment()

    monkeypatch.setattr(remote_folder, "copy_files", copied)
    for name in ("_write", "remove"):
        real = getattr(RemoteFolder, name)

        def around(*arguments: Any, real: Callable[..., None] = real) -> None:
            fate.moment()
            real(*arguments)
            fate.moment()

        monkeypatch.setattr(RemoteFolder, name, around)


def one_after_the_other(home: Path, fate: Fate, first_dies: int, second_dies: int = 0) -> tuple[bool, bool, bool]:
    """A machine, until a moment; then another to the end, which may be killed once as well.

    Returns whether each was killed, and whether the first left a checkpoint.
    """
    first, second = (small(home / name) for name in ("first", "second"))
    takes, left = iter(range(10**6)), False
    lives: list[Parts | None] = []
    for config, moment in ((first, first_dies), (second, second_dies)):
        config.train.checkpoint_uri = f"file://{home}/far"
        left = any(home.glob("far/*/*/iteration-*/whole.json"))
        fate.left = 0
        if not any(home.glob("far/*/*/before/whole.json")):  # nothing has come so far yet
            make_before(config)
        fate.left = moment
        lives.append(life(config, fate, takes))
    fate.left = 0
    parts = lives[-1] or run(second, fate, takes)
    for file in (first.run_dir / "train" / "trajectories").glob("*.parquet"):  # what was trained there stayed there
        there = second.run_dir / "train" / "trajectories" / file.name
        there.parent.mkdir(exist_ok=True)
        if not there.exists():
            shutil.copy(file, there)
    told = check(second, parts)
    assert told.started == EPISODES
    assert told.resumed >= left
    return lives[0] is None, lives[1] is None, left


def life(config: RunConfig, fate: Fate, takes: Iterator[int]) -> Parts | None:
    try:
        return run(config, fate, takes)
    except Killed:
        return None


@pytest.mark.slow
def test_killed_at_each_moment_another_machine_trains_every_trajectory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fate = mortal(monkeypatch)
    mortal_place(fate, monkeypatch)
    moment, killed, reached = 1, True, []
    while killed:
        moment += 5
        killed, _, left = one_after_the_other(tmp_path / f"first-{moment}", fate, moment)
        reached += [moment] * left
    assert reached[0] > 20 and len(reached) > 5  # killed on either side of the first checkpoint
    moment, killed = 1, True
    while killed:
        moment += 5
        _, killed, _ = one_after_the_other(tmp_path / f"second-{moment}", fate, reached[0], moment)
    assert moment > 20


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nowhere://bucket/folder", "no place that Arrow or fsspec knows .*nowhere"),
        ("some/folder", "no place that Arrow or fsspec knows"),
        ("file:///dev/null/folder", "cannot be written .*Not a directory"),
    ],
)
def test_a_place_that_is_none_is_said_before_anything_is_trained(tmp_path: Path, uri: str, said: str) -> None:
    config = load_config(None, [f"out={tmp_path}", f"train.checkpoint_uri={uri}"])
    with pytest.raises(ConfigError, match=rf"train\.checkpoint_uri={uri}: {said}"):
        RemoteCheckpoints(config, Stage("train", config.run_dir, "f" * 16), "sft-policy")
    make_before(config)
    with pytest.raises(ConfigError, match=r"train\.checkpoint_uri"):
        go_on(config)
    finding = doctor.checkpoints(config)
    assert not finding.ok and uri in finding.said and finding.remedy


def test_the_doctor_looks_at_the_place(here: RunConfig) -> None:
    assert doctor.checkpoints(here).said == f"{here.train.checkpoint_uri} can be written"
    assert "in the run folder alone" in doctor.checkpoints(without_place(here)).said


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.checkpoint_uri.*password"):
        load_config(None, ["train.checkpoint_uri=s3://key:secret@bucket/folder"])


def test_another_place_trains_nothing_anew(here: RunConfig) -> None:
    make_before(here)
    put(here, 10)
    assert go_on(without_place(here)) == ["iteration-00010"]
