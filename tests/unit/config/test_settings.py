"""Where a configuration comes from, and what a person is told when it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dreamgym.config import RunConfig
from dreamgym.config.loading import describe_fields, dump_config, load_config
from dreamgym.errors import ConfigError


def _value(config: RunConfig, name: str) -> object:
    found: object = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_without_anything_every_field_has_its_default() -> None:
    assert load_config(None) == RunConfig()


@given(st.floats(min_value=1e-12, max_value=1e12), st.sampled_from(["{:e}", "{:.17g}", "{!r}", "{:.3E}"]))
def test_every_way_to_write_a_number_is_a_number(value: float, form: str) -> None:
    text = form.format(value)
    assert load_config(None, [f"learner.lr={text}"]).learner.lr == float(text)


def test_the_exponent_that_yaml_1_1_takes_for_text_is_a_number(tmp_path: Path) -> None:
    assert load_config(None, ["learner.lr=1e-6"]).learner.lr == 1e-6
    assert load_config(_recipe(tmp_path, "learner: {lr: 3e-5}")).learner.lr == 3e-5
    assert load_config(None, ["world.sft.tokens=2e6"]).world.sft.tokens == 2_000_000


def test_overrides_win_over_the_recipe_and_the_last_over_the_first(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "seed: 3\nlearner:\n  lr: 0.5\n  workers: 2\n")
    config = load_config(recipe, ["learner.lr=0.25", "learner.lr=0.125"])
    assert (config.seed, config.learner.lr, config.learner.workers) == (3, 0.125, 2)


def test_parts_of_an_algorithm_go_with_it_unless_they_are_given_beside_the_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = _recipe(tmp_path, "learner: {lr: 0.5, clip_high: 0.28, kl_in_reward: true}\n")
    for overrides in (
        ["learner.clip_low=0.1", "learner.algorithm=dapo"],
        ["learner.algorithm=dapo", "learner.clip_low=0.1"],
        ["learner={algorithm: dapo, clip_low: 0.1}"],
    ):
        learner = load_config(recipe, overrides).learner
        assert (learner.lr, learner.clip_low, learner.clip_high, learner.kl_in_reward) == (0.5, 0.1, None, None)
    assert load_config(recipe, ["learner.algorithm=grpo"]).learner.clip_high == 0.28
    (record,) = caplog.records
    assert record.message == (
        f"{recipe}: learner.clip_high=0.28 and learner.kl_in_reward=True left out, for that is of "
        "learner.algorithm=grpo; to keep it with dapo, give it beside that."
    )


def test_a_section_keeps_the_defaults_that_it_has_at_its_place(tmp_path: Path) -> None:
    config = load_config(_recipe(tmp_path, "policy: {sft: {lr: 1e-4}}"), ["world.sampling.top_p=0.5"])
    assert config.policy.sft.tokens == RunConfig().policy.sft.tokens != RunConfig().world.sft.tokens
    assert config.world.sampling.temperature == RunConfig().world.sampling.temperature


def test_texts_are_taken_as_they_stand() -> None:
    config = load_config(None, ["name=7", "policy.system_prompt=you: [play]", "out=a/b=c", "annotate.by=none"])
    assert (config.name, config.policy.system_prompt, config.annotate.by) == ("7", "you: [play]", "none")
    assert config.out == Path("a/b=c")


def test_options_of_an_environment_can_be_set_one_by_one() -> None:
    config = load_config(None, ["env.options={num_rooms: 4, deep: {a: 1}}", "env.options.seed=5"])
    assert config.env.options == {"num_rooms": 4, "deep": {"a": 1}, "seed": 5}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learner.lrr=1", ["learner.lrr", "did you mean 'learner.lr'?"]),
        ("leaner.lr=1", ["'leaner'", "'learner'"]),
        ("lr=1", ["'lr'", "'learner.lr'"]),
        ("learner.workers=2.5", ["learner.workers", "integer", "2.5"]),
        ("learner.workers=true", ["learner.workers", "integer", "True"]),
        ("learner.workers='2'", ["learner.workers", "integer"]),
        ("learner.lr=fast", ["learner.lr", "number", "fast"]),
        ("learner.lr=-1", ["learner.lr", "greater than 0", "-1"]),
        ("learner=3", ["'learner' is a section"]),
        ("annotate.by=me", ["annotate.by", "'rule', 'teacher' or 'none'", "'me'"]),
        ("collect.files=a.jsonl", ["collect.files", "list"]),
        ("collect.files=[a", ["collect.files", "YAML"]),
        ("seed=", ["'seed'", "None"]),
        ("nonsense", ["'nonsense'", "field=value"]),
    ],
)
def test_a_wrong_override_is_one_sentence_that_names_it(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    message = str(caught.value)
    assert message.startswith("command line: ")
    assert "\n" not in message
    assert [w for w in words if w not in message] == [], message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("seed: 1\nlearner:\n  lr: 1\n  lrr: 2\n", 4, ["'learner.lrr'", "'learner.lr'"]),
        ("seed: 1\nlearner:\n  lr: none\n", 3, ["'learner.lr'", "number"]),
        ("name: 7\n", 1, ["'name'", "string", "7"]),
        ("seed: 1\nenv: [a\n", 3, ["YAML"]),
        ("learner:\n  lr: 1\n  lr: 2\n", 3, ["'learner.lr'", "second time"]),
        ("learner: 3\n", 1, ["'learner' is a section"]),
    ],
)
def test_a_wrong_recipe_is_one_sentence_with_file_and_line(
    tmp_path: Path, text: str, line: int, words: list[str]
) -> None:
    recipe = _recipe(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(recipe)
    message = str(caught.value)
    assert message.startswith(f"{recipe}:{line}: ")
    assert [w for w in words if w not in message] == [], message


def test_recipes_that_are_missing_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such recipe"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="mapping of fields"):
        load_config(_recipe(tmp_path, "- a\n- b\n"))
    assert load_config(_recipe(tmp_path, "")) == RunConfig()


def test_a_dumped_configuration_loads_to_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["learner.lr=1e-6", "name=x.1", "collect.files=[a.jsonl]", "env.options.k='1e3'"])
    assert load_config(_recipe(tmp_path, dump_config(config))) == config


def test_every_field_is_described_with_its_default() -> None:
    described = {field.name: field for field in describe_fields()}
    leaves: list[str] = []

    def walk(section: BaseModel, prefix: str) -> None:
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                walk(value, f"{prefix}{name}.")
            else:
                leaves.append(prefix + name)

    walk(RunConfig(), "")
    assert sorted(described) == sorted(leaves)
    assert [f.name for f in described.values() if not f.help] == []
    assert described["policy.sft.tokens"].default == str(RunConfig().policy.sft.tokens)
    assert described["learner.lr"].type == "float > 0"
    assert described["annotate.by"].type == "rule | teacher | none"


def test_every_default_can_be_given_as_an_override() -> None:
    overrides = [f"{field.name}={field.default}" for field in describe_fields()]
    assert load_config(None, overrides) == RunConfig()


def test_messages_name_a_field_that_exists() -> None:
    known = {field.name for field in describe_fields()} | {field.section for field in describe_fields()}
    for name in ("world.engin.timeout_s", "policy.sampling.topp", "replay.topk", "train.group"):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [f"{name}=1"])
        suggested = re.findall(r"mean '([^']+)'", str(caught.value))
        assert suggested, name
        assert set(suggested) <= known


def test_groups_of_one_are_for_algorithms_that_compare_nothing_within_them() -> None:
    for fine in ("ppo", "reinforce_pp"):
        assert load_config(None, ["train.group_size=1", f"learner.algorithm={fine}"]).train.group_size == 1
    with pytest.raises(ConfigError, match=r"train\.group_size=1 leaves grpo nothing to compare"):
        load_config(None, ["train.group_size=1"])
    with pytest.raises(ConfigError, match="leaves rloo nothing"):
        load_config(None, ["train.group_size=1", "learner.algorithm=ppo", "learner.advantage=rloo"])
    with pytest.raises(ConfigError, match=r"train\.resample needs groups"):
        load_config(None, ["train.group_size=1", "learner.algorithm=ppo", "train.resample=1"])


def test_an_engine_reads_no_more_than_its_model_made_from_nothing_can() -> None:
    with pytest.raises(
        ConfigError, match=r"world\.engine\.max_model_len=4096 is more than world\.model\.scratch\.context"
    ):
        load_config(None, ["world.engine.max_model_len=4096"])
    short = ["world.model.scratch.context=1024", "world.engine.max_model_len=1024"]
    load_config(None, short)
    with pytest.raises(ConfigError, match=r"policy\.engine\.max_model_len=2048 is more than world\.model"):
        load_config(None, [*short, "policy.model.source=world"])
    load_config(None, ["world.model.source=some/model", "world.engine.max_model_len=4096"])


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_valid(recipe: Path) -> None:
    assert load_config(recipe).name == recipe.stem


@pytest.mark.parametrize("name", ["9" * 5000, r'"a\nb"', f"{{{'b' * 5000}: 1}}"])
@pytest.mark.parametrize("text", ["{name}: 1\n", "env:\n  {name}: 1\n", "{name}: 1\n{name}: 2\n"])
def test_the_sentence_stays_one_whatever_a_field_is_called(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError) as told:
        load_config(_recipe(tmp_path, text.format(name=name)))
    assert "\n" not in str(told.value) and len(str(told.value)) < 1000
