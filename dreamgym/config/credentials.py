"""Where secrets come from: an environment variable, or a mounted file that a variable names; nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from dreamgym.errors import ConfigError

LONGEST = 16_384


def credential(name: str) -> str:
    """The secret in the variable `name`, else in the file that `name`_FILE names; empty where neither is set.

    Raises:
        ConfigError: the file cannot be read, or no HTTP header could carry what is there. The secret is not told.
    """
    found, where = os.environ.get(name, ""), name
    if not found and (file := os.environ.get(f"{name}_FILE", "")):
        where = f"{name}_FILE"
        try:
            with Path(file).open(encoding="utf-8") as mounted:
                found = mounted.read(LONGEST + 1)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where}: {file} cannot be read ({type(error).__name__}); mount the secret.") from None
    found = found.strip()
    if len(found) > LONGEST or not all("!" <= character <= "~" for character in found):
        raise ConfigError(f"{where}: holds no key (blanks, control or foreign characters, or too long); set it anew.")
    return found
