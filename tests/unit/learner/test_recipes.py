"""Every recipe with every algorithm: what holds is its own form, but for the one that the recipe is of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from dreamgym.commands.experiment import Experiment
from dreamgym.commands.paper_tables import ROWS, TABLES
from dreamgym.config import ALGORITHM_PARTS, AlgorithmName
from dreamgym.config.loading import dump_config, load_config
from dreamgym.learner.algorithms import find, resolve

ROOT = Path(__file__).parents[3]
RECIPES = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("examples/*.yaml")])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", get_args(AlgorithmName))
def test_another_algorithm_than_the_recipe_s_has_its_own_form(recipe: Path, name: AlgorithmName) -> None:
    written = load_config(recipe).learner
    learner = load_config(recipe, [f"learner.algorithm={name}", "policy.context=grow"]).learner
    parts = written if name == written.algorithm else None
    assert {part: getattr(learner, part) for part in ALGORITHM_PARTS} == {
        part: getattr(parts, part, None) for part in ALGORITHM_PARTS
    }
    if name != written.algorithm:
        own = find(name)
        assert resolve(learner) == replace(
            own, drop_flat=own.drop_flat and not (learner.kl_coef or learner.entropy_coef)
        )


def test_the_quick_start_s_own_algorithm_keeps_what_its_recipe_sets() -> None:
    recipe = ROOT / "recipes" / "quickstart.yaml"
    for overrides in ([], ["learner.algorithm=grpo"], ["learner.algorithm=ppo", "learner.algorithm=grpo"]):
        algorithm = resolve(load_config(recipe, overrides).learner)
        assert (algorithm.clip_low, algorithm.clip_high, algorithm.aggregation) == (0.2, 0.28, "sequence_mean")
        assert algorithm.advantage is find("grpo").advantage and algorithm.drop_flat


@pytest.mark.parametrize("row", [row for row in ROWS if row in {*TABLES["table1"], *TABLES["ablation"]}])
def test_each_row_of_the_tables_has_the_form_of_its_own_algorithm(row: str) -> None:
    experiment = Experiment("table1", ROOT / "recipes" / "quickstart.yaml", ("train.group_size=4",))
    algorithm = resolve(experiment.config(row, 0).learner)
    if "ppo" in row:
        assert algorithm == find("ppo")
    else:
        assert (algorithm.clip_high, algorithm.aggregation) == (0.28, "sequence_mean")


def test_a_run_s_own_file_names_the_algorithm_that_its_parts_are_of(tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(load_config(ROOT / "recipes" / "quickstart.yaml")))
    assert resolve(load_config(saved, ["learner.algorithm=cispo"]).learner) == find("cispo")
    assert resolve(load_config(saved, ["learner.lr=1e-3"]).learner).clip_high == 0.28
