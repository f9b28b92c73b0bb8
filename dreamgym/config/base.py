"""What every group of settings is."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings: unknown fields are refused, and docstrings become the help."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_assignment=True)


def _without_secret(url: str) -> str:
    try:
        password = urlsplit(url).password
    except ValueError:
        password = None
    if password is not None:
        raise ValueError("holds a password, which would be written into the run folder; name a variable with the key")
    return url


Url = Annotated[str, AfterValidator(_without_secret)]
"""An address; secrets come from the environment, for a configuration is written down."""
