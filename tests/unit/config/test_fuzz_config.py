"""Any bytes as a recipe, and any words as overrides, are a configuration or one sentence, soon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamgym.config import RunConfig
from dreamgym.config.loading import MAX_RECIPE_BYTES, describe_fields, dump_config, load_config
from dreamgym.errors import ConfigError

RECIPE = (Path(__file__).parents[3] / "recipes" / "quickstart.yaml").read_bytes()
NAMES = [field.name for field in describe_fields()]
SCALARS = ["1", "1e3", "0x10", "-1", "1.5", "yes", "null", "~", ".nan", "-.inf", "2020-01-31", "1:30:00", "'", "*a"]
SCALARS += ["!!int x", "!!float ''", "!!bool x", "!!binary aGk=", "!!set {a}", "!!python/name:os.system", "&a 1", "["]
SCALARS += ["9" * 5000, "0x" + "f" * 5000, "{", "}", "- a", "? b", "<<: {a: 1}", "../..", "\t", "%YAML 9", "🗝"]
SCALARS += ['"\\0"', '"\\uD800"']
SCALAR = st.sampled_from(SCALARS) | st.text(max_size=6)
FAST = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def check(recipe: Path | None, overrides: list[str]) -> None:
    """A configuration that survives being kept, or one sentence."""
    try:
        config = load_config(recipe, overrides)
    except ConfigError as error:
        sentence = str(error)
    else:
        sentence = ""
    assert "\n" not in sentence and len(sentence) < 2000
    if sentence:
        return
    assert config.run_dir == Path(os.path.abspath(config.out), f"{config.name}-seed{config.seed}")
    kept = dump_config(config)
    assert RunConfig.model_validate(yaml.safe_load(kept)).seed == config.seed


@FAST
@given(data=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(data)
    check(tmp_path / "recipe.yaml", [])


@FAST
@given(at=st.integers(0, len(RECIPE)), cut=st.integers(0, 40), data=st.binary(max_size=12) | SCALAR.map(str.encode))
def test_a_recipe_with_a_wound(tmp_path: Path, at: int, cut: int, data: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(RECIPE[:at] + data + RECIPE[at + cut :])
    check(tmp_path / "recipe.yaml", [])


@FAST
@given(
    lines=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([*NAMES, "env", "env.options"]), SCALAR), max_size=5)
)
def test_fields_with_anything_behind_them(tmp_path: Path, lines: list[tuple[int, str, str]]) -> None:
    text = "\n".join(f"{' ' * indent}{name.split('.')[-1]}: {value}" for indent, name, value in lines)
    (tmp_path / "recipe.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    check(tmp_path / "recipe.yaml", [])


@FAST
@given(st.lists(st.tuples(st.sampled_from([*NAMES, "env.options.a.b", "env..name", "", "a"]), SCALAR), max_size=3))
def test_overrides(pairs: list[tuple[str, str]]) -> None:
    check(None, [f"{name}={value}" for name, value in pairs])


@given(st.text(st.characters(codec=None, categories=["Cs", "L", "P"]), max_size=8))
def test_half_a_character_on_the_command_line(word: str) -> None:
    check(None, [f"name={word}", f"out={word}"])


@pytest.mark.timeout(600)  # more than that for a second's work: it grows faster than the recipe
@pytest.mark.parametrize(
    "unit", [b"[", b"{a: ", b"- ", b"a:\n", b"&a ", b"'", b"x", b"? ", b"\n", b"a: &a [*a]\n", b"9"]
)
def test_a_recipe_as_long_as_may_be_ends_soon(tmp_path: Path, unit: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"name: " + unit * (MAX_RECIPE_BYTES // len(unit) - 6))
    check(tmp_path / "recipe.yaml", [])


def test_a_recipe_longer_than_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"#" * (MAX_RECIPE_BYTES + 1))
    with pytest.raises(ConfigError, match="longer than"):
        load_config(tmp_path / "recipe.yaml")


def test_laughs_do_not_grow(tmp_path: Path) -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30)]
    (tmp_path / "recipe.yaml").write_text("\n".join(["l0: &l0 [x]", *levels]))
    with pytest.raises(ConfigError, match=r"recipe.yaml:2: not valid YAML: an alias; write its value out"):
        load_config(tmp_path / "recipe.yaml")
