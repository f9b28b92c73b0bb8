"""Experts by rule for tasks of MiniWoB++: what is asked, and the lines of the page, give the next action."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dreamgym.envs.web.actions import write_action
from dreamgym.envs.web.page import Element

Page = Sequence[Element]
Rule = Callable[[str, Page, Sequence[str]], str]
"""What is asked, the page, and the actions so far; the next action, or empty where the rule knows none."""


def expert(task: str, goal: str, page: Page, taken: Sequence[str]) -> str:
    """The next action for a task; empty where no rule knows one."""
    rule = RULES.get(task.removeprefix("miniwob."))
    return rule(goal, page, taken) if rule else ""


def known_tasks() -> tuple[str, ...]:
    """The ids of the tasks that have an expert."""
    return tuple(f"miniwob.{name}" for name in RULES)


def _find(page: Page, name: str, *roles: str) -> Element | None:
    """The element of this name, of one of the roles if any are given; text is none."""
    named = [e for e in page if e.id and (not roles or e.role in roles)]
    return next((e for e in named if e.name == name), None) or next(
        (e for e in named if e.name.lower() == name.lower()), None
    )


def _click(element: Element | None) -> str:
    return write_action("click", element.id) if element else ""


def _quoted(goal: str) -> list[str]:
    return re.findall(r'"([^"]*)"', goal)


def _fields(page: Page) -> list[Element]:
    return [e for e in page if e.role in ("textbox", "searchbox", "Date")]


def _fill(element: Element, value: str, taken: Sequence[str]) -> str:
    """Fill a field that does not hold the value yet; of a password the page shows dots alone."""
    action = write_action("fill", element.id, value)
    return "" if element.value == value or action in taken else action


def _click_named(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Click on the "OK" button.`, `Click button ONE.`"""
    found = _quoted(goal) or re.findall(r"button (\w+)", goal)
    return _click(_find(page, found[0])) if found else ""


def _checkboxes(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Select a, b and click Submit.`: a box at a time, then the button."""
    wanted = re.match(r"Select (.*) and click Submit", goal)
    if not wanted:
        return ""
    names = [] if wanted[1] == "nothing" else [name.strip() for name in wanted[1].split(",")]
    for box in (e for e in page if e.role in ("checkbox", "radio")):
        if (box.name in names) != ("checked" in box.states):
            return _click(box)
    return _click(_find(page, "Submit"))


def _choose(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Select Norfolk Island from the list and click Submit.`"""
    wanted = re.match(r"Select (.*) from the list", goal)
    lists = [e for e in page if e.role in ("combobox", "listbox")]
    if not wanted or not lists:
        return ""
    chosen = next((e.name for e in page if e.role == "option" and "selected" in e.states), "")
    if chosen != wanted[1]:
        return write_action("select_option", lists[0].id, wanted[1])
    return _click(_find(page, "Submit"))


def _focus(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Focus into the 2nd input textbox.`"""
    which = re.search(r"(\d+)(?:st|nd|rd|th)", goal)
    fields = _fields(page)
    place = int(which[1]) - 1 if which else 0
    return write_action("focus", fields[place].id) if place < len(fields) else ""


def _enter(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Enter "Juan" into the text field and press Submit.`: the quoted words into the fields, in their order."""
    for field, word in zip(_fields(page), _quoted(goal), strict=False):
        if action := _fill(field, word, taken):
            return action
    return _click(next((e for e in page if e.role == "button"), None))


def _date(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Enter 01/18/2019 as the date and hit submit.`: a date field takes year, month, day."""
    found = re.search(r"(\d\d)/(\d\d)/(\d{4})", goal)
    fields = _fields(page)
    if not found or not fields:
        return ""
    month, day, year = found.groups()
    action = write_action("fill", fields[0].id, f"{year}-{month}-{day}")
    return action if action not in taken else _click(_find(page, "Submit"))


def _unfold(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`… find and click on the link "sed".`: click it where it is in sight, else open the next tab or section."""
    if found := _find(page, _quoted(goal)[0], "link", "clickable"):
        return _click(found)
    closed = [e for e in page if e.role == "tab" and "collapsed" in e.states]
    return _click(next((e for e in closed if _click(e) not in taken), None))


def _autocomplete(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Enter an item that starts with "Ti" and ends with "este".`: type, choose from the menu, submit."""
    words = _quoted(goal)
    fields = _fields(page)
    if not words or not fields:
        return ""
    first, last = words[0], words[1] if len(words) > 1 else ""
    value = fields[0].value
    if value.startswith(first) and value.endswith(last) and value != first:
        return _click(_find(page, "Submit"))
    for element in page:
        fits = element.name.startswith(first) and element.name.endswith(last)
        if fits and element.role not in ("textbox", "searchbox", "text", "button") and element.id:
            return _click(element)
    return write_action("fill", fields[0].id, first, enable_autocomplete_menu=True)


def _search(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`… enter "Myron" and press "Search", then find and click the 3rd search result.`, three results a page."""
    which = re.search(r"the (\d+)(?:st|nd|rd|th) search result", goal)
    words, fields = _quoted(goal), _fields(page)
    if not which or not words or not fields:
        return ""
    if action := _fill(fields[0], words[0], taken):
        return action
    search = _click(_find(page, "Search", "button"))
    if search not in taken:
        return search
    results = [e for e in page if e.role in ("link", "clickable") and not re.fullmatch(r"[<>\d]+", e.name)]
    place, per_page = int(which[1]) - 1, 3
    clicked = len([action for action in taken[taken.index(search) + 1 :] if action.startswith("click")])
    if clicked < place // per_page:
        return _click(_find(page, ">"))
    return _click(results[place % per_page]) if place % per_page < len(results) else ""


def _tree(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`… Find and click on the folder or file named "Augus".`: open one folder after the other until it is there."""
    name = _quoted(goal)[0]
    if found := _find(page, name, "clickable", "listitem"):
        return _click(found)
    folders = [e for e in page if e.role == "clickable" and not e.name.startswith("hitarea")]
    return _click(next((e for e in folders if _click(e) not in taken), None))


def _inbox(goal: str, page: Page, taken: Sequence[str]) -> str:
    """`Find the email by Anne and …`: its star or bin where it is listed, or open it, and answer or forward."""
    who = re.search(r"by (\w+)", goal)
    row = next((i for i, e in enumerate(page) if e.role == "clickable" and who and e.name.startswith(who[1] + " ")), -1)
    words = _quoted(goal)
    if "star" in goal or "trash" in goal or "delete" in goal:
        kind = "star" if "star" in goal else "trash"
        return _click(next((e for e in page[row + 1 :] if e.name == kind), None)) if row >= 0 else ""
    if row >= 0:
        return _click(page[row])
    if field := next((e for e in _fields(page)), None):
        receiver = re.search(r"to (\w+)", goal)
        wanted = words[0] if words else receiver[1] if receiver else ""
        return _fill(field, wanted, taken) or _click(
            _find(page, "send") or next((e for e in page if "send" in e.name), None)
        )
    kind = "forward" if "forward" in goal.lower() else "reply"
    return _click(next((e for e in page if kind in e.name.lower()), None))


RULES: dict[str, Rule] = {
    "click-test-2": _click_named,
    "click-button": _click_named,
    "click-link": _click_named,
    "click-checkboxes": _checkboxes,
    "click-option": _checkboxes,
    "choose-list": _choose,
    "focus-text-2": _focus,
    "enter-text": _enter,
    "login-user": _enter,
    "enter-date": _date,
    "click-tab-2": _unfold,
    "click-collapsible-2": _unfold,
    "use-autocomplete": _autocomplete,
    "search-engine": _search,
    "navigate-tree": _tree,
    "email-inbox": _inbox,
}
