"""A wheel holds the whole package, and its command runs from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_command_runs_from_a_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "dreamgym", source / "dreamgym", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    call = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(call, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        held = {name for name in archive.namelist() if name.startswith("dreamgym/")}
    package = ROOT / "dreamgym"
    page = [path for path in (package / "view" / "static").rglob("*") if path.is_file()]
    assert page and held == {path.relative_to(ROOT).as_posix() for path in (*package.rglob("*.py"), *page)}
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "dreamgym = dreamgym.cli:run" in entry_points.read_text()
    code = "import dreamgym, sys; print(dreamgym.__file__); from dreamgym.cli import main; sys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", code, "collect", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith(str(installed)) and "heldout_tasks" in ran.stdout
