"""The channels that a network sees, of a slice and of its neighbours in the volume."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax import lax
from jaxtyping import Array, Num

from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError

Volume = Num[Array | np.ndarray, "slices height width _"]


class Channel(NamedTuple):
  """One channel of a network's input.

  Attributes:
    sequence: its index among the channels of the data set.
    offset: 0 for the slice itself; n for the slice n positions later in its volume.
  """

  sequence: int
  offset: int = 0


def own_channels(info: DatasetInfo) -> tuple[Channel, ...]:
  """The channels of a slice itself, as stored."""
  return tuple(Channel(sequence) for sequence in range(len(info.channels)))


def parse_channels(text: str, info: DatasetInfo) -> tuple[Channel, ...]:
  """Parses names of channels with commas between them, e.g. `pre,flair,post,flair-1,flair+1`.

  Args:
    text: the names; or `all`.
    info: the data set that has these channels.

  Raises:
    UserError: a name is not a channel, or the number after it is 0.
  """
  if text.strip() == "all":
    return own_channels(info)
  channels = []
  for name in text.split(","):
    match = re.fullmatch(r"\s*(.+?)([+-]\d+)?\s*", name)
    if not match or match[1] not in info.channels or (match[2] and not int(match[2])):
      raise UserError(
        f"data.channels names {name.strip()!r}, expected some of {', '.join(info.channels)}, separated by commas; "
        f"{info.reference}-1 and {info.reference}+1 are of the slices before and after, and so on"
      )
    channels.append(Channel(info.channels.index(match[1]), int(match[2] or 0)))
  return tuple(channels)


def context_of(channels: Sequence[Channel], info: DatasetInfo) -> tuple[Channel, ...]:
  """The channels of neighbours that follow a slice's own; always with the reference channel, which stands in for missing ones."""
  near = {channel for channel in channels if channel.offset}
  references = {Channel(info.reference_index, channel.offset) for channel in near}
  return tuple(sorted(near | references, key=lambda one: (one.offset, one.sequence)))


def reach(channels: Sequence[Channel]) -> int:
  """How many slices away the farthest neighbour is."""
  return max(abs(channel.offset) for channel in channels)


def check_reach(channels: Sequence[Channel], slices: int, name: str) -> None:
  """Raises UserError where a volume of so many slices is too short for these neighbours.

  Args:
    channels: channels of the network.
    slices: number of slices in the volume.
    name: name of the volume.
  """
  if channels and reach(channels) >= slices:
    raise UserError(
      f"{name} has {slices} slice{'s' * (slices != 1)}, and data.channels looks at neighbours {reach(channels)} away: expected more than "
      f"{reach(channels)} slices; leave those channels or that volume out"
    )


def with_neighbours(volume: Volume, context: Sequence[Channel]) -> Volume:
  """The slices of a volume with the channels of their neighbours after their own; at the ends the outermost slice repeats."""
  if not context:
    return volume
  # With lax, as the converter to ONNX replaces `jnp.concatenate` by one that does not support an unknown number of slices.
  join = np.concatenate if isinstance(volume, np.ndarray) else lambda parts, axis=0: lax.concatenate(parts, axis % 4)

  def shifted(offset: int) -> Volume:
    """Shifts one slice at a time, so that tracing sees that an unknown number of slices stays the same."""
    moved = volume
    for _ in range(abs(offset)):
      moved = join([moved[1:], moved[-1:]]) if offset > 0 else join([moved[:1], moved[:-1]])
    return moved

  near = [shifted(channel.offset)[..., channel.sequence : channel.sequence + 1] for channel in context]
  return join([volume, *near], axis=-1)
