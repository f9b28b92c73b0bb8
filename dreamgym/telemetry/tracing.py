"""Log lines that follow a trajectory through the parts (`what trajectory=ID key=value`), in Ray's session logs."""

from __future__ import annotations

import json
import logging
import re
import sys

_PLAIN = re.compile(r"[\w.,:/+@-]+")
_LONGEST = 500


class Event:
    """A message for a logger: what happened, then `key=value`; made into text only where the line is written.

    A value that is more than a word (an action, a reason) is quoted as JSON, so that it stays in its line, and cut.
    """

    __slots__ = ("_fields", "_what")

    def __init__(self, what: str, **fields: object) -> None:
        self._what = what
        self._fields = fields

    def __str__(self) -> str:
        return " ".join([self._what, *(f"{key}={_value(value)}" for key, value in self._fields.items())])


def log_to_session(level: str = "info") -> None:
    """Write dreamgym's log lines of this process to its standard error, which Ray keeps in the session's logs.

    `level` is that of `RunConfig.log_level`; calling it again only changes the level.
    """
    logger = logging.getLogger("dreamgym")
    logger.setLevel(level.upper())
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) and len(text) <= _LONGEST else json.dumps(text[:_LONGEST])
