"""The stage `report`: one page on a run, finished or not, as HTML and as Markdown."""

from __future__ import annotations

from dreamgym.config import RunConfig
from dreamgym.report.page import write_report
from dreamgym.telemetry.console import console


def report(config: RunConfig) -> None:
    """Write report.html, report.md and report.json into the run folder; nothing is computed anew.

    Raises:
        DataError: the run was never started, or a file in its folder is broken.
    """
    page = write_report(config.run_dir)
    console.print(f"[green]✓[/] [bold]report[/] · {page}", soft_wrap=True)
