"""What `train` says before it begins."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dreamgym.commands.sft import ANSWER_TOKENS
from dreamgym.commands.train import tell_room
from dreamgym.config.loading import load_config
from dreamgym.data.examples import taught_lengths
from dreamgym.runs.stage import keep_stage


def test_answers_are_counted_by_their_tokens_with_loss() -> None:
    table = pa.table({"ids": [[1] * 6, [1]], "weights": [[0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [0.0]]})
    assert taught_lengths(table) == [2, 1]


@pytest.mark.parametrize(("needed", "told"), [(12, False), (13, True)])
def test_answers_that_will_be_cut_off_are_told_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], needed: int, told: bool
) -> None:
    config = load_config(None, ["policy.sampling.max_tokens=12"])
    record = {
        "stage": "sft-policy",
        "fingerprint": "",
        "started": "",
        "seconds": 0.0,
        "summary": {ANSWER_TOKENS: needed},
    }
    keep_stage(tmp_path, record)
    tell_room(config, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert ("raise it to 13 or more" in said) == told
