"""The drill: what carries loss can be known from what stands before it, by an independent search."""

from __future__ import annotations

from dreamgym.data.lookup_drill import drill

WORDS = range(100, 400)


def test_every_token_with_loss_follows_a_word_as_before() -> None:
    table = drill(WORDS, 20_000, seed=3)
    recalled = total = 0
    for ids, weights in zip(table["ids"].to_pylist(), table["weights"].to_pylist(), strict=True):
        assert len(ids) == len(weights) and set(ids) <= set(WORDS)
        for i, weight in enumerate(weights):
            if weight:
                before = [ids[j + 1] for j in range(i - 1) if ids[j] == ids[i - 1]]
                total += 1
                assert ids[i] in before
                recalled += ids[i] == before[-1]
    assert total > 5_000
    assert recalled / total > 0.9  # now and then a random word also stands where it is no key


def test_the_same_seed_gives_the_same_rows_and_about_the_tokens_asked_for() -> None:
    assert drill(WORDS, 5_000, 0).equals(drill(WORDS, 5_000, 0))
    assert not drill(WORDS, 5_000, 0).equals(drill(WORDS, 5_000, 1))
    assert 5_000 <= sum(map(len, drill(WORDS, 5_000, 0)["ids"].to_pylist())) < 5_100
