"""What every group of settings is."""

from __future__ import annotations

from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict

T = TypeVar("T")
_OPERATIONAL = "operational"
Operational = Annotated[T, _OPERATIONAL]
"""A field that says where, how fast or how patiently something runs, and changes nothing that is made.

A finished stage stays finished when it changes; every other field of a section that the stage depends on undoes it.
"""


class Section(BaseModel):
    """A group of settings: unknown fields are refused, and docstrings become the help."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_assignment=True)

    @classmethod
    def is_operational(cls, field: str) -> bool:
        """Whether a field changes nothing that is made; see `Operational`."""
        return _OPERATIONAL in cls.model_fields[field].metadata


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
