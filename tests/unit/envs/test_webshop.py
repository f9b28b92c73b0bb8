"""WebShop over its 1,000 products: what the expert scores, what search finds, and how a purchase is scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamgym.envs.webshop import WebShop, fold_of
from dreamgym.envs.webshop_data import Goal, Product, score
from dreamgym.errors import EnvError
from dreamgym.types import Transition

DATA = Path(__file__).parents[4] / "shared" / "data"
PRODUCTS, GOALS = DATA / "webshop_products_1000.jsonl.xz", DATA / "items_ins_v2_1000.json"
for module in ("bm25s", "rapidfuzz"):
    pytest.importorskip(module, reason="the extra 'webshop' is not installed")
with_data = pytest.mark.skipif(not PRODUCTS.is_file() or not GOALS.is_file(), reason="the WebShop data is absent")


def product(**fields: object) -> Product:
    base: dict[str, object] = {
        "asin": "A1", "name": "acme red cotton shirt", "description": "", "features": "machine wash", "price": 20.0,
        "query": "shirts", "category": "Clothing › Men › Shirts", "options": {"size": ["small", "medium"]},
        "attributes": ["long sleeve"],
    }  # fmt: skip
    return Product(**{**base, **fields})  # type: ignore[arg-type]


GOAL = Goal(
    "g", "A1", "acme red cotton shirt", "Clothing › Men › Shirts", "shirts", "", ["long sleeve"], {"size": "medium"}, 30
)


@pytest.mark.parametrize(
    ("bought", "chosen", "expected"),
    [
        (product(), {"size": "medium"}, 1.0),
        (product(), {"size": "small"}, 2 / 3),
        (product(), {}, 2 / 3),
        (product(price=31.0), {"size": "medium"}, 2 / 3),
        (product(attributes=[]), {"size": "medium"}, 2 / 3),
        (product(attributes=[], features="with a long sleeve"), {"size": "medium"}, 1.0),
        (product(name="garden hose"), {"size": "medium"}, 0.0),
        (product(name="acme lamp", query="lamps", category="Home"), {"size": "medium"}, 1.0),
        (product(name="acme", query="lamps", category="Home"), {}, 2 / 3),
    ],
)
def test_a_purchase_is_scored_by_attributes_options_price_and_type(
    bought: Product, chosen: dict[str, str], expected: float
) -> None:
    assert score(bought, GOAL, chosen) == pytest.approx(expected)


@with_data
def test_the_expert_buys_what_scores_full() -> None:
    env = WebShop(str(PRODUCTS), str(GOALS))
    scores = []
    for task in env.tasks("train", 60, seed=0):
        state, info = env.reset(task)
        assert (state, info["instruction"]) == (task.first_state, task.instruction)
        for _ in range(20):
            action = env.expert_action()
            after, reward, done, _, info = env.step(action)
            assert info["valid"], (action, state)
            step = Transition(state, action, after, reward, done)
            assert env.reason(task, [], step).endswith(f"here: {after.splitlines()[-1].split()[0]}")
            state = after
            if done:
                break
            assert reward == 0.0
        scores.append(info["score"] if done else 0.0)
        assert info["success"] == (scores[-1] == 1.0)
    assert sum(s == 1.0 for s in scores) / len(scores) > 0.95


@with_data
def test_folds_share_no_product_and_a_seed_gives_the_same_tasks() -> None:
    env = WebShop(str(PRODUCTS), str(GOALS))
    goals = {fold: env.tasks(fold, 10_000, seed=0) for fold in ("train", "dev", "test")}
    assert sum(map(len, goals.values())) == len({t.id for tasks in goals.values() for t in tasks}) > 5000
    assert [len({fold_of(env._shop.by_id[t.id].asin) for t in tasks}) for tasks in goals.values()] == [1, 1, 1]
    assert env.tasks("dev", 5, seed=3) == env.tasks("dev", 5, seed=3)


@with_data
def test_what_is_not_on_the_page_is_refused() -> None:
    env = WebShop(str(PRODUCTS), str(GOALS))
    env.reset(env.tasks("test", 1, seed=0)[0])
    for action in ("click[buy now]", "click[next >]", "buy", ""):
        state, reward, done, _, info = env.step(action)
        assert (state, reward, done, info["valid"]) == ("refused at start search", 0.0, False, False)
    state, *_ = env.step("search[wood table]")
    assert state.startswith("moved at results page 1 of 5 ") and "table" in state
    assert env.step("search[again]")[0] == state.replace("moved", "refused", 1)


def test_missing_data_is_one_sentence_with_the_remedy() -> None:
    with pytest.raises(EnvError, match="needs the files of WebShop"):
        WebShop()
    with pytest.raises(EnvError, match=r"env\.options\.goals: cannot read 'no\.json'"):
        WebShop("no.jsonl", "no.json")
