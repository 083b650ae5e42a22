"""What made a mask, as its file records it."""

from typing import NamedTuple


class Algorithm(NamedTuple):
  """What made a mask.

  Attributes:
    software: name and version of the software, e.g. `bt_jax 0.2.0`.
    name: the networks, in words; empty where they are not known.
    threshold: threshold of the mask, 0..1; None where it is not known.
  """

  software: str
  name: str = ""
  threshold: float | None = None
