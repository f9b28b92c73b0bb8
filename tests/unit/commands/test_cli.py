"""The command line: what it calls, what it prints, how it ends, and that it leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dreamgym.cli import COMMANDS, main
from dreamgym.config.loading import describe_fields
from tests.waiting import HANG_S, until_ended

ENVIRONMENT = {**os.environ, "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path)}


def _run(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # `nohup make test` has it ignored
    )


def test_help_of_every_command_documents_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        missing = [f.name for f in describe_fields() if f.name not in printed or f.help.split(";")[0] not in printed]
        assert missing == [], name


def test_help_imports_neither_torch_nor_ray() -> None:
    code = """
        import sys
        from dreamgym.cli import main
        main(["train", "--help"])
        print([m for m in ("torch", "ray", "transformers", "vllm", "matplotlib") if m in sys.modules], file=sys.stderr)
    """
    process = _run(code)
    assert process.communicate()[1].strip() == "[]"


def test_a_whole_run_imports_torch_and_ray_only_after_it_has_collected() -> None:
    code = """
        import sys
        import dreamgym.commands.experiment, dreamgym.commands.quickstart
        print([m for m in ("torch", "ray", "transformers", "vllm") if m in sys.modules], file=sys.stderr)
    """
    assert _run(code).communicate()[1].strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["'trian'", "'train'"]),
        (["train", "nowhere.yaml"], ["nowhere.yaml", "no such recipe"]),
        (["train", "learner.lrr=1"], ["learner.lrr", "'learner.lr'"]),
        (["train", "a.yaml", "b.yaml"], ["one recipe at a time"]),
        (["train", "--lr", "3"], ["--lr"]),
        (["eval", "--who", "me"], ["--who", "expert"]),
        (["report", "name=never", "out=nowhere"], ["never-seed0", "no run is here"]),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_exit_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamgym.runtime.processes.TREE.end", lambda: None)  # children of the other tests live on
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert [w for w in words if w not in captured.err] == [], captured.err


STAGE = """
    import subprocess, sys, time, types
    import dreamgym.cli as cli
    from dreamgym.commands import Command
    stage = types.ModuleType("stage")
    {body}
    stage.run = run
    sys.modules["stage"] = stage
    cli.COMMANDS["eval"] = Command("stage:run", "")
    sys.exit(cli.main(["eval", "seed=1", "--who", "random", "eval.games=2", "out=" + sys.argv[1]]))
"""

SLEEPER = """
    def run(config, who):
        inner = "import subprocess; p = subprocess.Popen(['sleep', 'infinity']); print(p.pid, flush=True); p.wait()"
        child = subprocess.Popen([sys.executable, "-c", inner])
        print(child.pid, flush=True)
        child.wait()
""".replace("\n    ", "\n        ").strip()


def test_overrides_and_options_may_stand_in_any_order(tmp_path: Path) -> None:
    body = "def run(config, who): print(config.seed, who, config.eval.games)"
    out, err = _run(STAGE.format(body=body), str(tmp_path)).communicate()
    assert out == "1 random 2\n", err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_ends_the_run_with_a_sentence_and_no_process_left(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = _run(STAGE.format(body=SLEEPER), str(tmp_path))
    assert process.stdout is not None
    children = [psutil.Process(int(process.stdout.readline())) for _ in range(2)]
    process.send_signal(number)
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == code
    assert err.startswith("stopped; finished work is kept in ")
    assert "Traceback" not in err
    assert f"{tmp_path}/run-seed1; run the same command again" in err
    until_ended(children)


def test_a_full_disk_is_one_sentence_and_another_fault_of_a_file_is_not(tmp_path: Path) -> None:
    write = "def run(config, who): open({!r}, 'w').write('x' * 10**6)"
    process = _run(STAGE.format(body=write.format("/dev/full")), str(tmp_path))
    out, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: the disk is full") and "No space left" in err
    process = _run(STAGE.format(body=write.format("/nowhere/file")), str(tmp_path))
    assert "FileNotFoundError" in process.communicate(timeout=HANG_S)[1]
    assert process.returncode == 1


def test_a_failing_stage_leaves_no_process_and_shows_its_traceback(tmp_path: Path) -> None:
    """The child does not end by itself, nor does the watchdog's time come: the command itself ends both."""
    body = "def run(config, who): print(subprocess.Popen(['sleep', 'infinity']).pid, flush=True); 1 / 0\n"
    body += "    import dreamgym.runtime.processes; dreamgym.runtime.processes.SHUTDOWN_S = 10**6"
    process = _run(STAGE.format(body=body), str(tmp_path))
    out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert "ZeroDivisionError" in err
    with suppress(psutil.NoSuchProcess):
        until_ended([psutil.Process(int(out))])
