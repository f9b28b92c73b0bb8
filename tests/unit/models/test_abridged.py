"""States by what changed: shorter, and exact both ways, whatever lines there are."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.models.abridged import ParseError, abridge, unabridge

PAGE = "text Username\n16 textbox username\ntext Password\n19 textbox password\n20 button Login"


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        ("moved at hall", "refused at hall", "refused ..."),
        ("moved at hall", "moved at attic", "moved at attic"),
        (PAGE, PAGE.replace("16 textbox username", "16 textbox username = joe"),
         "...\n16 textbox username = joe\n..."),
        (PAGE, f"error: no such id\n{PAGE}", "error: no such id\n..."),
        (f"error: no such id\n{PAGE}", PAGE, "text Username\n..."),
        (PAGE, PAGE.replace("19 textbox password\n", ""), "...\ntext Password\n20 button Login"),
        (PAGE, f"{PAGE}\n22 link more", "...\n20 button Login\n22 link more"),
        (PAGE, PAGE, "..."),
        (PAGE, "1 button a\n2 button b", "1 button a\n2 button b"),
        ("a\nb\nc", "a\n...\nc", "a\n....\nc"),
    ],
)  # fmt: skip
def test_a_state_is_written_by_what_changed(before: str, after: str, written: str) -> None:
    assert abridge(before, after) == written
    assert unabridge(before, written) == after


def test_a_line_that_is_not_there_cannot_be_gone_on_with() -> None:
    with pytest.raises(ParseError, match=r"'99 button x' follows '\.\.\.', but takes the place of no line before"):
        unabridge(PAGE, "...\n99 button x")
    with pytest.raises(ParseError, match="is one word"):
        unabridge("hall", "moved ...")


LINES = st.lists(
    st.sampled_from(["", ".", "...", "....", "a", "a b", "a c", "b ...", "1 x", "1 y", "2 x", "text z", " 3 q", "...a"])
    | st.text(max_size=4).map(lambda text: text.replace("\n", "")),
    max_size=7,
).map("\n".join)


@given(LINES, LINES)
def test_what_is_written_is_read_back(before: str, after: str) -> None:
    written = abridge(before, after)
    assert unabridge(before, written) == after
    assert len(written) <= len(after) + after.count("...") + 4


@given(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=30), st.data())
def test_an_element_that_changes_costs_its_line_alone(ids: list[int], data: st.DataObject) -> None:
    page = [f"{id_} button name {id_}" for id_ in ids]
    place = data.draw(st.integers(0, len(page) - 1))
    changed = [*page[:place], f"{ids[place]} button other", *page[place + 1 :]]
    if len(page) > 3:
        assert len(abridge("\n".join(page), "\n".join(changed)).splitlines()) <= 3


@given(LINES, LINES)
def test_whatever_a_model_writes_is_read_or_refused(before: str, written: str) -> None:
    with contextlib.suppress(ParseError):
        assert isinstance(unabridge(before, written), str)
