"""The stage `report`: a run, finished or not, as one page that needs no server, and as Markdown."""

from __future__ import annotations

from dreamgym.config import RunConfig
from dreamgym.telemetry.console import console
from dreamgym.view.still import write_report


def report(config: RunConfig) -> None:
    """Write report.html, report.md and report.json into the run folder; nothing is computed anew.

    Raises:
        DataError: the run was never started, or a file in its folder is broken.
    """
    page = write_report(config.run_dir)
    console.print(f"[green]✓[/] [bold]report[/] · {page}", soft_wrap=True)
