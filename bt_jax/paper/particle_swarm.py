"""Particle swarms that split histograms into classes by Otsu's criterion, all histograms at once.

A particle has a position in the unit cube, one coordinate per level; 0 is a histogram's darkest value and 1 its
brightest. All histograms share one stream of random numbers, so the levels of one do not depend on the others in the
batch.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

# Clerc and Kennedy (2002), doi:10.1109/4235.985692: with these coefficients a swarm contracts.
INERTIA, PULL = 0.7298, 1.4962
ROUNDS = 60
RANDOM_ORDER_PARTICLES = 20
SWARMS, FIRST_SWARMS = 4, 2  # at most, and at the start
PARTICLES, FIRST_PARTICLES, LEAST_PARTICLES = 15, 10, 4  # of one swarm: at most, at the start, and to live on
PATIENCE = 5  # rounds without improvement until a swarm first loses a particle

Positions = Float[np.ndarray, "n *particles levels"]
Levels = Int[np.ndarray, "n *particles levels"]
Values = Float[np.ndarray, "n *particles"]


def make_criterion(histograms: Int[np.ndarray, "n bins"]) -> Callable[[Levels], Values]:
  """Makes the criterion: the between-class variance, in squared bins (Otsu 1979, doi:10.1109/TSMC.1979.4310076).

  Args:
    histograms: pixels by bin; none is empty.

  Returns:
    A function of the levels, which are the last bins of all classes except the brightest, in ascending order.
  """
  n, bins = histograms.shape
  share = histograms / histograms.sum(1, keepdims=True)
  weights, moments = share.cumsum(1), (share * np.arange(bins)).cumsum(1)

  def criterion(levels: Levels) -> Values:
    flat = levels + (np.arange(n) * bins).reshape(n, *[1] * (levels.ndim - 1))
    last = flat[..., :1] // bins * bins + bins - 1
    ends = np.concatenate([flat, last], axis=-1)
    weight, moment = (np.diff(sums.ravel()[ends], axis=-1, prepend=0) for sums in (weights, moments))
    mean = moments.ravel()[last[..., 0]]
    return (moment**2 / np.maximum(weight, 1e-12)).sum(-1) - mean**2

  return criterion


def _problem(
  histograms: Int[np.ndarray, "n bins"],
) -> tuple[Callable[[Positions], Values], Callable[[Positions], Levels]]:
  """The criterion as a function of positions, and the function from positions to levels."""
  darkest = np.argmax(histograms > 0, axis=1)
  span = histograms.shape[1] - 1 - np.argmax(histograms[:, ::-1] > 0, axis=1) - darkest
  criterion = make_criterion(histograms)

  def levels_of(positions: Positions) -> Levels:
    shape = (-1, *[1] * (positions.ndim - 1))
    return np.sort(darkest.reshape(shape) + np.rint(positions * span.reshape(shape)).astype(int), axis=-1)

  return lambda positions: criterion(levels_of(positions)), levels_of


def random_order(histograms: Int[np.ndarray, "n bins"], classes: int, *, seed: int) -> Int[np.ndarray, "n {classes}-1"]:
  """Levels from one swarm (Kennedy and Eberhart 1995) whose particles move in turn, in a new random order each round.

  Each particle sees what those before it in the same round have found (asynchronous update: Carlisle and Dozier 2001).
  """
  rng = np.random.default_rng(seed)
  criterion, levels_of = _problem(histograms)
  shape = (len(histograms), RANDOM_ORDER_PARTICLES, classes - 1)
  position = np.broadcast_to(rng.random(shape[1:]), shape).copy()
  velocity = np.zeros(shape)
  own, own_value = position.copy(), criterion(position)
  rows = np.arange(len(histograms))
  for _ in range(ROUNDS):
    for one in rng.permutation(RANDOM_ORDER_PARTICLES):
      leader = own[rows, own_value.argmax(1)]
      velocity[:, one] = _steer(velocity[:, one], position[:, one], own[:, one], leader, rng.random((2, classes - 1)))
      position[:, one] = np.clip(position[:, one] + velocity[:, one], 0, 1)
      value = criterion(position[:, one])
      better = value > own_value[:, one]
      own[better, one], own_value[better, one] = position[better, one], value[better]
  return levels_of(own[rows, own_value.argmax(1)])


def _steer(
  velocity: Positions,
  position: Positions,
  own: Positions,
  leader: Float[np.ndarray, "n *#particles levels"],
  draws: Float[np.ndarray, "2 ..."],
) -> Positions:
  return INERTIA * velocity + PULL * (draws[0] * (own - position) + draws[1] * (leader - position))


@dataclasses.dataclass
class Swarms:
  """The swarms of each histogram; a swarm without a living particle is an empty slot."""

  position: Float[np.ndarray, "n swarms particles levels"]
  velocity: Float[np.ndarray, "n swarms particles levels"]
  own: Float[np.ndarray, "n swarms particles levels"]  # the best position of each particle
  own_value: Float[np.ndarray, "n swarms particles"]  # -inf: dead, or not yet moved
  alive: Bool[np.ndarray, "n swarms particles"]
  stagnation: Float[np.ndarray, "n swarms"]  # rounds without improvement, reduced after each loss
  losses: Int[np.ndarray, "n swarms"]  # particles lost since the last improvement

  @property
  def value(self) -> Float[np.ndarray, "n swarms"]:
    return self.own_value.max(-1)

  @property
  def leader(self) -> Float[np.ndarray, "n swarms 1 levels"]:
    return np.take_along_axis(self.own, self.own_value.argmax(-1)[..., None, None], axis=2)


def darwinian(histograms: Int[np.ndarray, "n bins"], classes: int, *, seed: int) -> Int[np.ndarray, "n {classes}-1"]:
  """Levels from swarms that grow, shrink, breed and die (Tillett et al. 2005; on images, Ghamisi et al. 2012).

  A swarm that improves gains a random particle. It may also found a new swarm, with a probability that is a uniform
  number divided by the number of swarms; half of the particles come from itself and half from any living swarm. A swarm
  that does not improve for `PATIENCE` rounds loses its worst particle, and another after each further `PATIENCE` /
  (losses + 1) rounds; it dies when fewer than `LEAST_PARTICLES` are left. Unlike in Tillett et al., the swarm with the
  best position does not die, so that its position is kept.
  """
  rng = np.random.default_rng(seed)
  criterion, levels_of = _problem(histograms)
  shape = (len(histograms), SWARMS, PARTICLES)
  position = np.broadcast_to(rng.random((SWARMS, PARTICLES, classes - 1)), (*shape, classes - 1)).copy()
  alive = np.zeros(shape, bool)
  alive[:, :FIRST_SWARMS, :FIRST_PARTICLES] = True
  swarms = Swarms(
    position, np.zeros(position.shape), position.copy(), np.where(alive, criterion(position), -np.inf), alive, np.zeros(shape[:2]),
    np.zeros(shape[:2], int),
  )  # fmt: skip
  for _ in range(ROUNDS):
    improved = move(swarms, criterion, rng)
    reward(swarms, improved, rng)
    punish(swarms, improved)
    breed(swarms, improved, rng)
  best = swarms.value.argmax(1)
  return levels_of(swarms.leader[np.arange(len(best)), best, 0])


def move(
  swarms: Swarms, criterion: Callable[[Positions], Values], rng: np.random.Generator
) -> Bool[np.ndarray, "n swarms"]:
  """Moves every particle; returns which swarms improved."""
  before = swarms.value
  draws = rng.random((2, *swarms.position.shape[1:]))
  swarms.velocity = _steer(swarms.velocity, swarms.position, swarms.own, swarms.leader, draws)
  swarms.position = np.clip(swarms.position + swarms.velocity, 0, 1)
  value = criterion(swarms.position)
  better = swarms.alive & (value > swarms.own_value)
  swarms.own[better], swarms.own_value[better] = swarms.position[better], value[better]
  return swarms.value > before


def reward(swarms: Swarms, improved: Bool[np.ndarray, "n swarms"], rng: np.random.Generator) -> None:
  """Adds a random particle to each swarm that improved and has room."""
  swarms.stagnation[improved], swarms.losses[improved] = 0, 0
  born = rng.random((SWARMS, swarms.position.shape[-1]))
  row, swarm = np.nonzero(improved & ~swarms.alive.all(-1))
  slot = np.argmin(swarms.alive[row, swarm], axis=-1)
  swarms.position[row, swarm, slot] = swarms.own[row, swarm, slot] = born[swarm]
  swarms.velocity[row, swarm, slot] = 0
  swarms.alive[row, swarm, slot] = True


def punish(swarms: Swarms, improved: Bool[np.ndarray, "n swarms"]) -> None:
  """Removes the worst particle of each swarm that stagnates, and the whole swarm if it becomes too small."""
  swarms.stagnation[~improved] += 1
  size = swarms.alive.sum(-1)
  first = swarms.value == swarms.value.max(1, keepdims=True)
  row, swarm = np.nonzero((swarms.stagnation >= PATIENCE) & (size > np.where(first, LEAST_PARTICLES, 0)))
  worst = np.argmin(np.where(swarms.alive, swarms.own_value, np.inf)[row, swarm], axis=-1)
  swarms.alive[row, swarm, worst] = False
  swarms.alive[row, swarm] &= (size[row, swarm] > LEAST_PARTICLES)[:, None]
  swarms.own_value[~swarms.alive] = -np.inf
  swarms.losses[row, swarm] += 1
  swarms.stagnation[row, swarm] = PATIENCE * (1 - 1 / (swarms.losses[row, swarm] + 1))


def breed(swarms: Swarms, improved: Bool[np.ndarray, "n swarms"], rng: np.random.Generator) -> None:
  """Founds at most one new swarm per round and histogram, from a swarm that improved and any living one."""
  living = swarms.alive.any(-1)
  willing = improved & living & (rng.random(SWARMS) / living.sum(1, keepdims=True) > rng.random(SWARMS))
  row = np.flatnonzero(willing.any(1) & ~living.all(1))
  parent, slot = willing[row].argmax(1), living[row].argmin(1)
  mate = np.where(living[row], rng.random(SWARMS), -1).argmax(1)
  of_parent = rng.permutation(PARTICLES) < PARTICLES // 2
  for name in ("position", "velocity", "own", "own_value", "alive"):
    values = getattr(swarms, name)
    choice = of_parent.reshape(-1, *[1] * (values.ndim - 3))
    values[row, slot] = np.where(choice, values[row, parent], values[row, mate])
  swarms.stagnation[row, slot], swarms.losses[row, slot] = 0, 0
