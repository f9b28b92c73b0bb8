"""MiniWoB++ in a real Chromium: experts win, wrong answers do not, and what a page does ends as text or as a fault."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dreamgym.envs.web.browser import Settings, system_browser
from dreamgym.envs.web.client import BrowserClient, BrowserFault
from dreamgym.envs.web.env import BrowserGym, BrowserGymTools, as_tool
from dreamgym.envs.web.experts import known_tasks
from tests.waiting import until_ended
from tests.web_sites import Site

for module in ("browsergym.miniwob", "miniwob"):
    pytest.importorskip(module, reason="the extra 'web' is not installed")
if not system_browser():
    pytest.skip("no Chromium is installed", allow_module_level=True)


@pytest.fixture(scope="module")
def env() -> Iterator[BrowserGym]:
    env = BrowserGym(tasks=known_tasks())
    yield env
    env.close()


def begin(env: BrowserGym, name: str, seed: int = 3) -> str:
    return str(env._reset(f"miniwob.{name}", seed)["state"])


@pytest.mark.parametrize("name", [task.removeprefix("miniwob.") for task in known_tasks()])
def test_experts_win_and_all_they_act_on_is_on_the_page(env: BrowserGym, name: str) -> None:
    for seed in (1, 2):
        state = begin(env, name, seed)
        for _ in range(15):
            action = env.expert_action()
            assert action, f"{name} {seed}: the rule knows no action for\n{env._goal}\n{state}"
            element = action.split("'")[1]
            assert any(line.split()[:1] == [element] for line in state.splitlines()), state
            state, reward, ended, _, info = env.step(action)
            assert info["valid"], state
            if ended:
                break
        assert info["success"] and reward == 1.0, f"{name} {seed}: {env._goal}\n{env._taken}\n{state}"


def test_an_answer_that_is_partly_right_is_no_success(env: BrowserGym) -> None:
    """Nothing is ticked: BrowserGym itself calls that solved where most boxes are to stay empty."""
    for seed in range(6):
        begin(env, "click-checkboxes", seed)
        if " nothing " in env._goal:
            continue
        submit = next(element.id for element in env._page if element.name == "Submit")
        _, reward, ended, _, info = env.step(f"click('{submit}')")
        assert ended and reward < 1.0 and not info["success"]


def test_the_same_seed_is_the_same_page_also_in_another_browser(env: BrowserGym) -> None:
    first = begin(env, "click-checkboxes", 5)
    assert begin(env, "click-checkboxes", 6) != first
    other = BrowserGym(tasks=["miniwob.click-checkboxes"])
    try:
        assert begin(other, "click-checkboxes", 5) == first
    finally:
        other.close()


def test_what_is_no_action_or_not_there_is_told_in_a_sentence(env: BrowserGym) -> None:
    state = begin(env, "click-test-2")
    told, reward, ended, _, info = env.step("I will not click('13')")
    assert told.startswith("error: an action is one of click, ") and told.endswith(state)
    assert (reward, ended, info) == (0.0, False, {"success": False, "valid": False})
    assert env.step("click('999')")[0] == f'error: ValueError: Could not find element with bid "999"\n{state}'
    assert env.step("goto('https://example.com')")[0].startswith("error: there is no action goto")


def test_a_browser_without_a_sandbox_is_told(env: BrowserGym) -> None:
    begin(env, "click-test-2")
    assert bool(env.remark) is (os.geteuid() == 0) or "without a sandbox" in env.remark


def test_actions_as_tools(env: BrowserGym) -> None:
    tools = BrowserGymTools(tasks=["miniwob.enter-text"])
    try:
        begin(tools, "enter-text")
        for _ in range(2):
            info = tools.step(tools.expert_action())[4]
        assert info["success"]
        assert all(action.startswith('{"name": ') for action in (*tools.valid_actions(), *tools.commands()))
        assert as_tool("noop(100)") in tools.commands()
    finally:
        tools.close()


def own_page(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of our own in the place of MiniWoB's click-test, whose button ends nothing."""
    import miniwob

    pages = Path(miniwob.__file__).parent / "html"
    (folder / "miniwob").mkdir()
    for name in ("core", "common"):
        (folder / name).symlink_to(pages / name)
    page = (pages / "miniwob" / "click-test.html").read_text().replace("core.endEpisode(1.0", "void (1.0")
    (folder / "miniwob" / "click-test.html").write_text(page + script)
    monkeypatch.setenv("MINIWOB_URL", (folder / "miniwob").as_uri() + "/")


def test_dialogs_other_hosts_and_late_menus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks, reaches out, and answers late."""
    script = """
<script>
window.addEventListener('load', () => { setTimeout(() => {
  const button = document.getElementById('subbtn') || document.querySelector('button');
  button.addEventListener('mousedown', () => {
    alert('are you\\nsure?');
    new Image().src = 'http://tracker.invalid/a.png';
    setTimeout(() => { document.getElementById('area').insertAdjacentHTML('beforeend', '<p>late</p>'); }, 250);
  });
}, 0); });
</script>"""
    own_page(tmp_path, script, monkeypatch)
    env = BrowserGym(tasks=["miniwob.click-test"], settle=3.0)
    try:
        begin(env, "click-test")
        state, _, ended, _, info = env.step(env.valid_actions()[-1])
        assert not ended and info["valid"]
        assert state.splitlines()[:2] == ["alert: are you", "blocked: tracker.invalid is not a host of this task"]
        assert "late" in state
    finally:
        env.close()


def test_an_element_that_is_not_ready_at_once_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The button is ready 1.2 s after it is asked for, later than BrowserGym itself waits."""
    script = """
<script>
window.addEventListener('load', () => { setTimeout(() => {
  const button = document.getElementById('subbtn') || document.querySelector('button');
  button.addEventListener('mouseover', () => {
    if (!button.dataset.asked) { button.dataset.asked = 'yes'; button.disabled = true;
      setTimeout(() => { button.disabled = false; }, 1200); }
  });
  button.addEventListener('click', () => {
    document.getElementById('area').insertAdjacentHTML('beforeend', '<p>pressed</p>');
  });
}, 0); });
</script>"""
    own_page(tmp_path, script, monkeypatch)
    env = BrowserGym(tasks=["miniwob.click-test"])
    try:
        begin(env, "click-test")
        button = env.valid_actions()[-1]
        env.step(button.replace("click", "hover"))
        state, _, _, _, info = env.step(button)
        assert info["valid"] and "pressed" in state, state
    finally:
        env.close()


def test_a_redirect_does_not_leave_the_hosts_that_may_be_opened() -> None:
    site, other = Site(), Site()
    site.away = other.url
    env = BrowserGym(tasks=["miniwob.click-test"], hosts=[site.url.removeprefix("http://")], sites=True)
    try:
        for path in ("/named", "/away"):
            begin(env, "click-test")
            folder = Path(env._browser._folder.name)  # type: ignore[union-attr]
            with contextlib.suppress(BrowserFault):  # the page that rewards has been left
                env.step(f"goto('{site.url}{path}')")
            assert path in site.served
        assert other.served == []
    finally:
        env.close()
        site.close()
        other.close()
    assert not folder.exists()


def test_a_browser_that_dies_is_a_fault_and_the_next_episode_has_a_new_one() -> None:
    env = BrowserGym(tasks=["miniwob.click-test-2"])
    try:
        begin(env, "click-test-2")
        process = psutil.Process(env._browser._process.pid)  # type: ignore[union-attr]
        family = process.children(recursive=True)
        assert family
        folder = Path(env._browser._folder.name)  # type: ignore[union-attr]
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(BrowserFault, match="gave no answer to step"):
            env.step("click('13')")
        assert not folder.exists()
        until_ended(family)
        assert begin(env, "click-test-2")
    finally:
        family = psutil.Process(env._browser._process.pid).children(recursive=True)  # type: ignore[union-attr]
        env.close()
    until_ended(family)


def test_a_request_has_a_deadline_and_a_task_that_is_not_there_is_named() -> None:
    slow = BrowserClient(Settings(actions=("noop",)), deadline_s=0.05)
    with pytest.raises(BrowserFault, match=r"none within 0\.05 s"):
        slow.ask("reset", task="miniwob.click-test-2", seed=1)
    client = BrowserClient(Settings(actions=("click",)), deadline_s=120)
    with pytest.raises(BrowserFault, match="no-such-task"):
        client.ask("reset", task="miniwob.no-such-task", seed=1)
    missing = BrowserClient(Settings(browser="/no/such/browser", actions=("click",)), deadline_s=120)
    with pytest.raises(BrowserFault, match=r"no browser at '/no/such/browser'; .*env\.options\.browser"):
        missing.ask("reset", task="miniwob.click-test-2", seed=1)
