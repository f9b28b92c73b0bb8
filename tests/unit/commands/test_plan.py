"""The command `plan`: machines, placement, what fits, the nearest setting that does, hours, and the recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dreamgym.cli import main
from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.errors import ConfigError
from dreamgym.planning.advice import apply, nearest, words
from dreamgym.planning.budget import Budget, given
from dreamgym.planning.check import check, check_cluster, models_of
from dreamgym.planning.estimate import Estimate, Models, estimate, precision
from dreamgym.planning.machine import FORMS, Node, chip_of, here, parse, parse_nvidia
from dreamgym.planning.placement import Seats, place, wanted

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "tests" / "models"
FOLDERS = {
    "meta-llama/Llama-3.2-3B-Instruct": MODELS / "llama-3.2-3b",
    "meta-llama/Llama-3.1-8B-Instruct": MODELS / "llama-3.1-8b",
    "Qwen/Qwen2.5-7B-Instruct": MODELS / "qwen2.5-7b",
}
"""The public sizes of the models that recipes name, so that no test asks the hub for them."""
PAPER = sorted((ROOT / "recipes").glob("*-*b.yaml"))
SMALL = [ROOT / "recipes" / "quickstart.yaml", ROOT / "recipes" / "scienceworld.yaml"]


def recipe(path: Path, *overrides: str) -> RunConfig:
    """A recipe with the folders of its models' configurations in place of their names on the hub."""
    config = load_config(path, overrides)
    for model in (config.world.model, config.policy.model):
        model.source = str(FOLDERS.get(model.source, model.source))
    return config


@pytest.fixture(scope="module")
def eight_b() -> tuple[RunConfig, Models]:
    config = recipe(ROOT / "recipes" / "alfworld-llama3.1-8b.yaml")
    return config, models_of(config)


# Machines -------------------------------------------------------------------------------------------------


def test_machines_are_read_as_they_are_written() -> None:
    eight = parse("8xA100-80")
    assert (eight.gpus, eight.gpu_gb, len(eight.nodes), eight.bfloat16) == (8, 80, 1, True)
    two = parse("2x8xH100-80")
    assert (two.gpus, len(two.nodes)) == (16, 2)
    one = parse("1x4090-24")
    assert (one.gpus, one.gpu_gb) == (1, 24)
    cpu = parse("cpu:16x64")
    assert (cpu.gpus, cpu.nodes[0].cores, cpu.nodes[0].ram_gb) == (0, 16, 64)
    assert here().nodes[0].cores


@pytest.mark.parametrize(
    "text", ["", "8xA100", "A100-80", "0xA100-80", "8xA100-0", "cpu:4", "cpu:0x8", "8x8x8xA100-80"]
)
def test_another_form_is_one_sentence_with_those_that_are_read(text: str) -> None:
    with pytest.raises(ConfigError, match="--machine") as error:
        parse(text)
    assert FORMS in str(error.value)


@pytest.mark.parametrize(
    ("name", "bfloat16"),
    [("NVIDIA A100-SXM4-80GB", True), ("Tesla V100-SXM2-32GB", False), ("Tesla T4", False), ("NVIDIA H200", True),
     ("NVIDIA GeForce RTX 2080 Ti", False), ("NVIDIA GeForce RTX 4090", True), ("a newer one", True)],
)  # fmt: skip
def test_the_name_of_a_gpu_tells_whether_it_has_bfloat16(name: str, bfloat16: bool) -> None:
    assert chip_of(name).bfloat16 == bfloat16


def test_auto_is_bfloat16_from_ampere_on_and_float32_before_and_what_is_asked_for_stays() -> None:
    assert precision("auto", parse("1xA100-40")) == "bfloat16"
    assert precision("auto", parse("1xT4-16")) == "float32"
    assert precision("bfloat16", parse("cpu:2x8")) == "bfloat16"


def test_nvidia_smi_is_read() -> None:
    told = parse_nvidia(["NVIDIA A100-SXM4-80GB, 81920", "No devices were found"])
    assert told == [("NVIDIA A100-SXM4-80GB", pytest.approx(85.9, abs=0.01))]


# Placement ------------------------------------------------------------------------------------------------


def test_a_seat_lies_on_one_node_and_no_gpu_has_two() -> None:
    nodes = [Node(gpus=4), Node(gpus=4)]
    assert place([Seats("a", 2, 3), Seats("b", 2, 1)], nodes).missing == []
    assert place([Seats("a", 2, 4), Seats("b", 1, 1)], nodes).missing == [Seats("b", 1, 1)]
    assert place([Seats("a", 1, 8)], nodes).missing == [Seats("a", 1, 8)]  # eight GPUs, but not on one node


def test_refresh_needs_a_gpu_for_each_worker_of_its_own_learner(eight_b: tuple[RunConfig, Models]) -> None:
    config, models = eight_b
    assert sum(seats.count * seats.gpus for seats in wanted(config)) == 8
    more = apply(config, {"world.refresh.every": 10})
    assert more is not None
    found = estimate(more, models, parse("8xA100-80"))
    assert any("4 of the seats of 'refresh'" in misfit.said for misfit in found.misfits)
    assert estimate(more, models, parse("2x8xA100-80")).misfits == []


# What fits, and what would --------------------------------------------------------------------------------


def test_the_default_learner_does_not_fit_80_gb_and_the_nearest_setting_is_cheap(
    eight_b: tuple[RunConfig, Models],
) -> None:
    config, models = eight_b
    spoiled = apply(config, {"learner.zero_stage": 1, "learner.gradient_checkpointing": False})
    assert spoiled is not None

    def judge(tried: RunConfig) -> Estimate:
        return estimate(tried, models, parse("8xA100-80"))

    assert {misfit.part for misfit in judge(spoiled).misfits} == {"learner"}
    change = nearest(spoiled, judge)
    assert change is not None
    assert set(change) == {"learner.zero_stage", "learner.gradient_checkpointing"}
    mended = apply(spoiled, change)
    assert mended is not None and judge(mended).misfits == []
    assert nearest(config, judge) == {}


@pytest.mark.parametrize(
    ("machine", "spoiled", "remedy"),
    [
        ("8xA100-80", {"policy.engines": 3}, "policy.engines=2"),
        ("8xA100-80", {"world.refresh.every": 5}, "world.refresh.every=0"),
        ("8xA100-80", {"policy.engine.max_model_len": 262_144, "learner.token_budget": 8192}, "max_model_len"),
        ("2x8xA100-40", {}, "learner"),
        ("1x4090-24", {"learner.workers": 1, "policy.engines": 1}, None),
    ],
)
def test_what_is_advised_fits_by_the_same_estimate(
    eight_b: tuple[RunConfig, Models], machine: str, spoiled: dict[str, object], remedy: str | None
) -> None:
    config, models = eight_b
    config_now = apply(config, spoiled)
    assert config_now is not None
    verdict = check(config_now, models, parse(machine))
    assert not verdict.fits
    if remedy is None:
        assert "smaller models" in verdict.remedy
        return
    assert remedy in verdict.remedy
    mended = apply(config_now, nearest(config_now, lambda tried: estimate(tried, models, parse(machine))) or {})
    assert mended is not None and estimate(mended, models, parse(machine)).misfits == []


def test_one_small_gpu_is_shared() -> None:
    config = recipe(SMALL[0])
    models = models_of(config)
    change = nearest(config, lambda tried: estimate(tried, models, parse("1x4090-24")))
    assert change is not None and change["train.colocate"] is True and change["learner.workers"] == 1
    assert "train.colocate=true" in words(change)


def test_a_gpu_without_bfloat16_is_told_and_float32_advised() -> None:
    config, on = recipe(SMALL[0], "world.model.dtype=bfloat16"), parse("4xV100-32")
    models = models_of(config)
    assert [misfit.part for misfit in estimate(config, models, on).misfits] == ["precision"]
    assert "world.model.dtype=float32" in check(config, models, on).remedy


def test_muon_cannot_go_with_zero_3_and_the_advice_never_says_so(eight_b: tuple[RunConfig, Models]) -> None:
    config, models = eight_b
    config_now = apply(config, {"world.sft.optimizer": "muon"})
    assert config_now is not None
    verdict = check(config_now, models, parse("8xA100-80"))
    assert "world.sft.optimizer=muon cannot go with learner.zero_stage=3" in verdict.said
    assert verdict.remedy == "set learner.zero_stage=2"


def test_host_memory_counts_where_it_is_known(eight_b: tuple[RunConfig, Models]) -> None:
    config, _ = eight_b
    big = [Node(gpus=8, gpu="A100", gpu_gb=80, cores=64, ram_gb=512)]
    small = [Node(gpus=8, gpu="A100", gpu_gb=80, cores=64, ram_gb=60)]
    assert check_cluster(config, big).fits
    verdict = check_cluster(config, small)
    assert not verdict.fits and "memory takes" in verdict.said
    assert check_cluster(config, [Node(gpus=8, gpu="A100", gpu_gb=80, ram_gb=512, shm_gb=20)]).said.count("/dev/shm")


def test_a_model_that_cannot_be_had_is_a_verdict_with_a_remedy(tmp_path: Path) -> None:
    config = load_config(None, [f"world.model.source={tmp_path}"])
    verdict = check_cluster(config, [Node(cores=2, ram_gb=24)])
    assert not verdict.fits and "config.json" in verdict.remedy


# Hours and money ------------------------------------------------------------------------------------------


def test_hours_follow_the_rates_that_are_given(eight_b: tuple[RunConfig, Models]) -> None:
    config, models = eight_b
    on = parse("8xA100-80")
    found = estimate(config, models, on)

    def seconds(part: str, **rates: float) -> float:
        told = Budget(config, models, on, found, given(rates)).costs()
        return sum(cost.seconds for cost in told if cost.part == part)

    episodes = config.train.iterations * config.train.groups * config.train.group_size
    tokens = episodes * config.env.max_steps * 0.5 * config.policy.sampling.max_tokens * 0.25
    assert seconds("rollouts: policy", policy_tokens_per_s=1000, steps=0.5, answer=0.25) == pytest.approx(tokens / 1000)
    assert seconds("experience model", learner_tokens_per_s=5000) == config.world.sft.tokens / 5000
    assert seconds("real steps") == 0 < seconds("real steps", env_steps_per_s=10)
    sync = config.train.iterations * 2 * models.policy.weights / 1e9
    assert seconds("weights to the engines", sync_gb_per_s=4) == pytest.approx(sync / 4)
    with pytest.raises(ConfigError, match="learner_tokens_per_s"):
        given({"speed": 1.0})


def test_minutes_bound_the_loop() -> None:
    config = recipe(SMALL[0])
    config.train.minutes, models, on = 1.0, models_of(config), parse("cpu:2x24")
    told = Budget(config, models, on, estimate(config, models, on), given({})).costs()
    assert sum(cost.seconds for cost in told if cost.stage == "train") == pytest.approx(60)


# The command and the recipes ------------------------------------------------------------------------------

Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr("dreamgym.runtime.processes.TREE.end", lambda: None)  # children of the other tests live on
    monkeypatch.setattr("dreamgym.commands.plan.console.width", 200)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["plan", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
def test_small_recipes_fit_a_small_machine(plan: Plan, path: Path) -> None:
    code, out, err = plan(str(path), "--machine", "cpu:2x24")
    assert (code, err) == (0, "")
    assert "the run fits" in out


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_recipes_of_the_paper_fit_eight_gpus_of_80_gb(plan: Plan, path: Path) -> None:
    config = recipe(path)
    sources = [f"{of}.model.source={getattr(config, of).model.source}" for of in ("world", "policy")]
    code, out, err = plan(str(path), "--machine", "8xA100-80", "--price-per-hour", "10", *sources)
    assert (code, err) == (0, "")
    assert "the run fits" in out and "cost" in out and "suits a small new model" not in out
    assert len(path.read_text().splitlines()) <= 60


def test_all_recipes_of_the_paper_are_there() -> None:
    policies = ("llama3.1-8b", "llama3.2-3b", "qwen2.5-7b")
    six = [f"{env}-{policy}" for env in ("alfworld", "webshop") for policy in policies]
    assert {p.stem for p in PAPER} == {*six, "webarena-lite-llama3.1-8b"}


def test_what_does_not_fit_is_one_sentence_with_the_nearest_setting(plan: Plan) -> None:
    large = f"world.model.source={MODELS / 'llama-3.1-8b'}"
    code, out, err = plan(str(SMALL[0]), "--machine", "8xA100-80", large, "world.sft.lr=1e-3")
    assert code == 2
    assert err.startswith("error: plan: the run does not fit 8xA100-80 (") and err.count("\n") == 1
    assert "learner.gradient_checkpointing=true" in err
    assert "✗" in out and "world.sft.lr=0.001 suits a small new model" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--machine", "8xA100"], ["--machine", "1x4090-24"]),
        (["--rate", "speed=3", "--machine", "cpu:2x24"], ["speed", "learner_tokens_per_s"]),
        (["--rate", "answer"], ["NAME=VALUE"]),
        (["--price-per-hour", "-1"], ["--price-per-hour"]),
        (["world.model.source=nowhere.gguf", "--machine", "cpu:2x24"], ["world.model.source", "config.json"]),
    ],
)
def test_a_mistake_is_one_sentence(plan: Plan, arguments: list[str], words: list[str]) -> None:
    code, _, err = plan(*arguments)
    assert code == 2 and err.count("\n") == 1
    assert [word for word in words if word not in err] == [], err
