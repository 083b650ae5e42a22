"""What made a mask, as its file records it."""

from typing import NamedTuple


class Algorithm(NamedTuple):
  """What made a mask.

  Attributes:
    software: name and version of the software, e.g. `bt_jax 0.2.0`.
    name: the networks, in words; empty where they are not known.
    threshold: threshold of the mask, 0..1; None where it is not known.
    corrected: whether a reader changed the mask by hand.
  """

  software: str
  name: str = ""
  threshold: float | None = None
  corrected: bool = False

  @property
  def origin(self) -> str:
    """The software, and whether a reader changed its mask, in words."""
    return f"{self.software}, corrected by hand" if self.corrected else self.software
