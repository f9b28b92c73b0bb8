"""How a policy writes its thought and its action: a file a format, and a line of this registry each."""

from dreamgym.models.answers.base import MALFORMED, Answer, AnswerFormat
from dreamgym.models.answers.native import Native
from dreamgym.models.answers.plain import Plain
from dreamgym.models.answers.react import React
from dreamgym.models.answers.tags import Tags

__all__ = ["FORMATS", "MALFORMED", "Answer", "AnswerFormat"]

FORMATS: dict[str, AnswerFormat] = {
    "plain": Plain(),
    "native": Native(),
    "react": React(),
    "tags": Tags(),
}
"""The formats of `policy.format`, by name."""
