"""WebShop's data: products, synthetic goals, BM25 search and the score of a purchase."""

from __future__ import annotations

import itertools
import json
import lzma
import random
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dreamgym.errors import EnvError
from dreamgym.types import stable_id

_SAME = 85
_NO_LIMIT = 1_000_000.0
_TITLE_FILLER = frozenset({"an", "and", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"})


@dataclass(frozen=True)
class Product:
    """One product; `price` in dollars, `options` lower-case values by lower-case name."""

    asin: str
    name: str
    description: str
    features: str
    price: float
    query: str
    category: str
    options: dict[str, list[str]]
    attributes: list[str]


@dataclass(frozen=True)
class Goal:
    """What to buy: the product it was written from, the attributes and options asked for, the highest price."""

    id: str
    asin: str
    name: str
    category: str
    query: str
    instruction: str
    attributes: list[str]
    options: dict[str, str]
    price_upper: float


@dataclass
class Shop:
    """All products with their index, and the goals by product."""

    products: dict[str, Product]
    goals: dict[str, list[Goal]]
    index: Any
    by_id: dict[str, Goal] = field(default_factory=dict)

    def search(self, words: str, most: int) -> list[str]:
        """The best products by BM25, best first; none where no word is known."""
        import bm25s

        tokens = bm25s.tokenize([words], stopwords="en", show_progress=False)
        found, scores = self.index.retrieve(tokens, k=min(most, len(self.products)), show_progress=False)
        asins = list(self.products)
        return [asins[i] for i, s in zip(found[0], scores[0], strict=True) if s > 0]


@lru_cache(maxsize=2)
def load_shop(products: str, goals: str) -> Shop:
    """Read both files and build the index; the same files are read once a process.

    Raises:
        EnvError: a package is missing, or a file is missing or wrong.
    """
    try:
        import bm25s
        import rapidfuzz  # noqa: F401 - the score needs it; better to say so now
    except ImportError as error:
        raise EnvError("env.name: 'webshop' needs its packages; pip install 'dreamgym[webshop]'.") from error
    notes = _read(goals, "goals")[0]
    try:
        items = [_product(row, notes.get(row["asin"], {})) for row in _read(products, "products")]
        catalogue = {p.asin: p for p in items}
        found = {p.asin: made for p in catalogue.values() if (made := _goals(p, notes.get(p.asin, {})))}
    except (KeyError, TypeError, AttributeError) as error:
        raise EnvError(f"env.options.products: '{products}' is no file of WebShop ({error!r}).") from error
    index = bm25s.BM25()
    texts = [
        " ".join([p.name, p.description, p.features, *(v for vs in p.options.values() for v in vs)])
        for p in catalogue.values()
    ]
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    return Shop(catalogue, found, index, {goal.id: goal for made in found.values() for goal in made})


def _read(path: str, option: str) -> list[Any]:
    """The objects of a JSON Lines file, or of a JSON list; a single object is a list of one."""
    file = Path(path)
    try:
        raw = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()
        if ".jsonl" in file.name:
            return [json.loads(line) for line in raw.splitlines() if line.strip()]
        found = json.loads(raw)
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise EnvError(f"env.options.{option}: cannot read '{path}' ({error}); give WebShop's own file.") from error
    return found if isinstance(found, list) else [found]


def _product(row: dict[str, Any], note: dict[str, Any]) -> Product:
    options = row.get("options")
    if options is None:
        made = row.get("customization_options") or {}
        options = {k: [o["value"].strip().replace("/", " | ") for o in values or []] for k, values in made.items()}
    prices = [float(p) for p in re.findall(r"\d+(?:\.\d+)?", str(row.get("pricing") or "").replace(",", " "))]
    rng = random.Random(stable_id("price", row["asin"]))
    price = rng.uniform(*sorted(prices[:2])) if len(prices) > 1 else prices[0] if prices else 100.0
    features = row.get("small_description") or []
    return Product(
        row["asin"],
        " ".join(row["name"].lower().split()),
        (row.get("full_description") or "").lower(),
        (" ".join(features) if isinstance(features, list) else str(features)).lower(),
        price,
        row.get("query", "").lower().strip(),
        row.get("product_category", ""),
        {k.lower(): list(dict.fromkeys(v.lower() for v in values)) for k, values in options.items() if values},
        row.get("Attributes") or note.get("attributes") or [],
    )


def _goals(product: Product, note: dict[str, Any]) -> list[Goal]:
    """The synthetic goals of a product: one for each combination of its options."""
    attributes = note.get("instruction_attributes") or []
    if not note.get("instruction") or not attributes:
        return []
    limits = [10.0 * i for i in range(1, 100) if 10.0 * i > product.price][:4]
    upper, price_text = _NO_LIMIT, ""
    if len(limits) >= 2:
        upper = max(random.Random(stable_id("limit", product.asin)).sample(limits, 2))
        price_text = f", and price lower than {upper:.2f} dollars"
    names = sorted(product.options)
    made = []
    for values in itertools.product(*(product.options[name] for name in names)):
        options = dict(zip(names, values, strict=True))
        told = ", and ".join(f"{k}: {v}" for k, v in options.items())
        instruction = f"{note['instruction'].strip('.')}{f' with {told}' if told else ''}{price_text}"
        goal_id = stable_id("webshop", product.asin, *values)
        made.append(
            Goal(
                goal_id,
                product.asin,
                product.name,
                product.category,
                product.query,
                instruction,
                attributes,
                options,
                upper,
            )
        )
    return made


def score(bought: Product, goal: Goal, chosen: dict[str, str]) -> float:
    """WebShop's reward in [0, 1]: share of what is met, times the type (arXiv 2207.01206, eq. 1).

    As upstream, but the title's words stand for its nouns (no parser), and colours are not reduced to basic ones. As
    upstream, an option not asked for counts where the product's texts contain it, be it as a part of a word.
    """
    attributes = sum(_has_attribute(bought, wanted) for wanted in goal.attributes)
    options = sum(_has_option(bought, name, value, goal) for name, value in chosen.items())
    price = bought.price <= goal.price_upper
    share = (attributes + options + price) / (len(goal.attributes) + len(goal.options) + 1)
    return min(1.0, share * _type_match(bought, goal))


def _mentions(product: Product, text: str) -> bool:
    return any(text in part for part in (product.name, product.features, product.description))


def _has_attribute(bought: Product, wanted: str) -> bool:
    from rapidfuzz.fuzz import token_set_ratio

    return any(token_set_ratio(has, wanted) > _SAME for has in bought.attributes) or _mentions(bought, wanted)


def _has_option(bought: Product, name: str, value: str, goal: Goal) -> bool:
    from rapidfuzz.fuzz import token_set_ratio

    wanted = goal.options.values()
    near = value in wanted if name == "size" else any(token_set_ratio(w, value) > _SAME for w in wanted)
    return near or _mentions(bought, value)


def _type_match(bought: Product, goal: Goal) -> float:
    """1 for the same kind of product, 0.5, 0.1 or 0 the less the titles share."""
    desired = _words(goal.name)
    title = len(desired & _words(bought.name)) / len(desired) if desired else 0.2
    if title == 0.0:
        return 0.0
    if title < 0.1:
        return 0.1
    shared = {c.strip() for c in bought.category.split("›")} & {c.strip() for c in goal.category.split("›")}
    return 1.0 if bought.query == goal.query or len(shared) >= 2 or title > 0.2 else 0.5


def _words(title: str) -> set[str]:
    return set(re.findall(r"[a-z]{2,}", title)) - _TITLE_FILLER
