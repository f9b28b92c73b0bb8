"""What the tests of episodes share."""

from __future__ import annotations

import pytest

from dreamgym.models.chat import ChatFormat
from dreamgym.models.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(train_tokenizer(["move north east south west take coin put coin in box"] * 8, 320, 512))
