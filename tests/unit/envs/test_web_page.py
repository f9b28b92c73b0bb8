"""Pages as text: every element that can be acted on has a line, and nothing is said twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dreamgym.envs.web.page import MOST_ALIKE, Element, Marks, page_text, read_marks, read_page


class Tree:
    """An accessibility tree as Chromium tells it."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []

    def add(self, role: str, name: str = "", *children: str, id_: str = "", value: str = "", **said: object) -> str:
        node: dict[str, Any] = {"nodeId": str(len(self.nodes) + 1), "role": {"value": role}, "name": {"value": name}}
        node |= {
            "childIds": list(children),
            "properties": [{"name": k, "value": {"value": v}} for k, v in said.items()],
        }
        node |= {"browsergym_id": id_} if id_ else {}
        node |= {"value": {"value": value}} if value else {}
        self.nodes.append(node)
        return str(node["nodeId"])

    def page(self, *children: str) -> dict[str, Any]:
        root = self.add("RootWebArea", "A Page", *children)
        return {"nodes": sorted(self.nodes, key=lambda node: node["nodeId"] != root)}


def lines(tree: dict[str, Any], **marks: Marks) -> list[str]:
    return [str(line) for line in read_page(tree, {name.removeprefix("b"): mark for name, mark in marks.items()})]


CLICKABLE = Marks(clickable=True)


def test_a_label_and_its_box_are_one_line() -> None:
    tree = Tree()
    box = tree.add("checkbox", "red", id_="2", checked="true")
    label = tree.add("LabelText", "", box, tree.add("StaticText", "red"), id_="1")
    assert lines(tree.page(label), b1=CLICKABLE, b2=CLICKABLE) == ["2 checkbox red (checked)"]


def test_what_can_be_clicked_has_a_line_whatever_its_role_and_words_around_it_stay() -> None:
    tree = Tree()
    span = tree.add("generic", "", tree.add("StaticText", "sed"), id_="7")
    page = tree.page(tree.add("StaticText", "Quis"), span, tree.add("StaticText", "massa"), tree.add("StaticText", "a"))
    assert lines(page, b7=CLICKABLE) == ["text Quis", "7 clickable sed", "text massa a"]


def test_an_element_without_a_name_is_called_by_what_the_document_says() -> None:
    tree = Tree()
    page = tree.page(tree.add("image", "", id_="3"), tree.add("image", "", id_="4"), tree.add("textbox", "", id_="5"))
    marks = {"b3": Marks(True, True, "star"), "b4": Marks(False, True, "ornament"), "b5": Marks(True, True, "user")}
    assert lines(page, **marks) == ["3 image star", "5 textbox user"]
    strings = ["bid", "3", "class", "star big", "title", " ", "9", "alt", "a dog"]
    document = {"nodes": {"attributes": [[0, 1, 2, 3, 4, 5], [0, 6, 2, 3, 7, 8], []]}}
    found = {"3": {"clickable": True, "visibility": 0.4}, "9": {"clickable": False, "visibility": 0.0}}
    told = read_marks(found, {"strings": strings, "documents": [document]})
    assert told == {"3": Marks(True, True, "star big"), "9": Marks(False, False, "a dog")}


def test_a_field_is_told_with_what_it_holds() -> None:
    tree = Tree()
    user = tree.add("textbox", "", tree.add("StaticText", "joe"), id_="1", value="joe")
    options = [tree.add("option", name, id_=id_, selected=name == "b") for id_, name in (("3", "a"), ("4", "b"))]
    choice = tree.add("combobox", "", tree.add("MenuListPopup", "", *options), id_="2", value="b", expanded=False)
    told = lines(tree.page(user, choice), b1=Marks(True, True, "username"), b3=Marks(seen=False), b4=Marks(seen=False))
    assert told == ["1 textbox username = joe", "2 combobox = b (collapsed)", " 3 option a", " 4 option b (selected)"]


def test_a_date_and_its_parts_share_an_id_and_a_line() -> None:
    tree = Tree()
    parts = [tree.add("spinbutton", name, id_="1") for name in ("Month", "Day")]
    date = tree.add("Date", "", tree.add("generic", "", *parts), id_="1", value="2019-01-18")
    assert lines(tree.page(date), b1=Marks(True, True, "due")) == ["1 Date due = 2019-01-18"]


def test_a_row_that_opens_what_it_names_has_a_line_beside_its_buttons() -> None:
    tree = Tree()
    bin_ = tree.add("image", "", id_="2")
    row = tree.add("generic", "", tree.add("StaticText", "Anne"), tree.add("StaticText", "hello"), bin_, id_="1")
    told = lines(tree.page(row), b1=CLICKABLE, b2=Marks(True, True, "bin"))
    assert told == ["1 clickable Anne hello", " 2 image bin"]


def test_a_page_that_listens_to_clicks_is_no_thing_to_click() -> None:
    tree = Tree()
    buttons = [tree.add("button", f"b{i}", id_=str(i)) for i in range(2, 9)]
    body = tree.add("generic", "", tree.add("StaticText", "words"), *buttons, id_="1")
    told = lines(tree.page(body), b1=CLICKABLE, **{f"b{i}": CLICKABLE for i in range(2, 9)})
    assert told == ["text words", *(f"{i} button b{i}" for i in range(2, 9))]


def test_a_tab_and_the_link_in_it_are_one() -> None:
    tree = Tree()
    link = tree.add("link", "One", id_="2")
    tab = tree.add("tab", "One", link, id_="1", selected=True, expanded=True)
    assert lines(tree.page(tab), b1=Marks(), b2=CLICKABLE) == ["2 tab One (selected) (expanded)"]


def test_long_lists_are_folded_with_a_count_and_a_long_page_loses_first_what_is_out_of_sight() -> None:
    tree = Tree()
    rows = [tree.add("listitem", f"row {i}", id_=str(i)) for i in range(1, MOST_ALIKE + 6)]
    told = lines(tree.page(*rows))
    assert told[MOST_ALIKE - 1 :] == [f"{MOST_ALIKE} listitem row {MOST_ALIKE}", "text … 5 more of listitem"]
    page = [Element(str(i), "button", f"b{i}", seen=i % 2 == 0) for i in range(6)]
    assert page_text(page, 6).splitlines()[1] == "1 button b1"
    assert page_text(page, 4) == "0 button b0\n2 button b2\n4 button b4\n… 3 lines out of sight"
    assert page_text(page, 2) == "0 button b0\n2 button b2\n… 1 more lines\n… 3 lines out of sight"


ROLES = st.sampled_from(["generic", "paragraph", "button", "link", "listitem", "heading", "textbox", "image", "cell"])


def _holding(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(ROLES, st.booleans(), st.lists(below, max_size=4))


@given(st.recursive(st.tuples(ROLES, st.booleans(), st.just(())), _holding, max_leaves=20))
def test_what_can_be_clicked_and_holds_nothing_else_to_click_is_never_lost(shape: Any) -> None:
    tree, marks, needed = Tree(), {}, set()

    def build(node: Any) -> tuple[str, bool]:
        role, clickable, below = node
        built = [build(child) for child in below]
        id_ = str(len(tree.nodes) + 100)
        acts = clickable or role in ("textbox", "button", "link") or any(act for _, act in built)
        marks[id_] = Marks(clickable, True, f"hint{id_}")
        if clickable and not any(act for _, act in built):
            needed.add(id_)
        return tree.add(role, f"name{id_}" if role in ("button", "link") else "", *(n for n, _ in built), id_=id_), acts

    top, _ = build(shape)
    found = read_page(tree.page(top), marks)
    folded = any(line.name.startswith("… ") for line in found)
    assert folded or needed <= {line.id for line in found}
    assert len({line.id for line in found if line.id}) == len([line for line in found if line.id])
