"""Exports networks as one file: a pure function from a volume to its mask, for users who have only JAX."""

import contextlib
import hashlib
import importlib.util
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NotRequired

import jax
import jax.export
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array, Bool, Float
from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.datasets.channels import with_neighbours
from bt_jax.datasets.info import Info
from bt_jax.errors import UserError
from bt_jax.evaluation.postprocess import class_masks
from bt_jax.files import Count, Positive, Share
from bt_jax.inference import standalone
from bt_jax.inference.decision import Decision, decide, describe
from bt_jax.inference.ensemble import make_ensemble
from bt_jax.inference.networks import Network, View
from bt_jax.scans import resampling
from bt_jax.scans.scan import NOTICE
from bt_jax.training.checkpoint_record import Profile

_PLATFORMS = ("cpu", "cuda", "tpu")
_GROUP = 8  # slices at a time
_ABOUT = "model.json"
_FORMAT = 2  # version of the description and of the function's inputs and outputs; version 1 took no aspect
_HASH_CHARACTERS = 64  # of a SHA-256 in hexadecimal
# docs.jax.dev/en/latest/export/export.html#compatibility-guarantees; counted from when jaxlib was built, not from today.
_READS = (
  f"written with jax {jax.__version__}, which JAX promises to read until six months after that release, and by versions up to "
  f"three weeks older; with a newer JAX export the run again, or pip install jax=={jax.__version__}"
)


class _Decision(TypedDict):
  threshold: Share
  temperature: Positive
  gate: Share | None
  tta: bool
  largest_component: bool
  info: Info
  profile: Profile
  reach: Count
  drops_sequences: bool


class _Jax(TypedDict):
  jax: str
  jaxlib: str
  reads: str


class Described(TypedDict):
  """What an exported file says about its networks, and until when JAX reads it."""

  research_use: str
  format: NotRequired[Count]
  jax: NotRequired[_Jax]
  decision: _Decision
  about: dict[str, Any]


def write(
  output: pathlib.Path,
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool,
  threshold: float | None,
  sensitivity: float,
) -> None:
  """Writes networks as one file; see `loading.load` for the options.

  `jax.export.deserialize` reads the file. A zip at its end, which `deserialize` ignores, describes the networks and
  makes the file a program: `python FILE volume.npy result.npz`. The zip's comment, the last 64 bytes, is the SHA-256 of
  all bytes before it. The same networks and options give the same bytes; if these are already there, nothing is done.

  Raises:
    UserError: contrast is enhanced outside of JAX, or another file is already there.
  """
  decision, described = plan(segmenters, classifiers, tta=tta, threshold=threshold, sensitivity=sensitivity)
  described["jax"] = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "reads": _READS}
  if is_there(output, described, lambda: read(output)[1]):
    return
  function = make_function(segmenters, classifiers, decision)
  slices, height, width = jax.export.symbolic_shape(
    "slices, height, width", constraints=[f"slices >= {decision.reach + 1}"]
  )
  volume = jax.ShapeDtypeStruct((slices, height, width, len(decision.info.channels)), jnp.float32)
  with _without_locations():
    exported = jax.export.export(jax.jit(function), platforms=_PLATFORMS)(volume, jax.ShapeDtypeStruct((), jnp.float32))
  path = files.write_bytes(output, seal(bytes(exported.serialize()) + program(described)))
  print(
    f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
    f"try it, with jax alone: python {path} volume.npy result.npz\n{_READS}\n{NOTICE}"
  )


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
  """Keeps JAX from writing the paths and lines of all callers, which differ by machine, into what it lowers."""
  name = "jax_traceback_in_locations_limit"
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def plan(
  segmenters: Sequence[Network], classifiers: Sequence[Network], **options: Any
) -> tuple[Decision, dict[str, Any]]:
  """How the networks decide, and their description for a file of any format; raises UserError as `write`."""
  if enhanced := [network for network in (*segmenters, *classifiers) if network.view.contrast != "none"]:
    raise UserError(
      f"{enhanced[0].about['path']} enhances contrast ({enhanced[0].view.contrast}) on the host, which an export cannot include: use the run "
      "itself, or train with data.contrast=none",
      "data.contrast=none",
    )
  if measured := [network for network in (*segmenters, *classifiers) if network.view.percentiles]:
    raise UserError(
      f"{measured[0].about['path']} is normalised between percentiles, which are computed on the host and which an export cannot "
      "include: use it as it is, or train with data.normalize=volume",
      "data.normalize=volume",
    )
  decision = decide(segmenters, classifiers, **options)
  about = describe(segmenters, classifiers, decision)
  return decision, {
    "research_use": NOTICE,
    "format": _FORMAT,
    "decision": vars(decision) | {"info": decision.info.to_json()},
    "about": about,
  }


def is_there(output: pathlib.Path, described: dict[str, Any], read_there: Callable[[], dict[str, Any]]) -> bool:
  """Whether the same export is already there; prints a line if it is.

  Args:
    output: the file.
    described: see `plan`.
    read_there: reads the description in the file that is there.

  Raises:
    UserError: another file is there.
  """
  if not output.exists():
    return False
  plain = json.loads(json.dumps(described))
  try:
    same = read_there() == plain
  except UserError:
    same = False
  if not same:
    raise UserError(f"{output} exists already, and is not this export: choose another output, or remove it", "output")
  print(f"already there: {output}, of these networks and options\n{NOTICE}")
  return True


def seal(content: bytes) -> bytes:
  """The content with its SHA-256 as the comment of the zip at its end."""
  start = content[:-2] + _HASH_CHARACTERS.to_bytes(2, "little")  # the length of the comment comes last
  return start + hashlib.sha256(start).hexdigest().encode()


def _is_sealed(content: bytes) -> bool:
  """Whether the SHA-256 at the end is that of all before it."""
  return hashlib.sha256(content[:-_HASH_CHARACTERS]).hexdigest().encode() == content[-_HASH_CHARACTERS:]


def _has_no_seal(content: bytes) -> bool:
  """Whether it ends with a zip without a comment: written by an earlier version, or packed again since."""
  return content[-22:-18] == b"PK\5\6" and content[-2:] == bytes(2)


def read(path: pathlib.Path) -> tuple[bytes, dict[str, Any]]:
  """The bytes of an exported file, verified, and its description of its networks.

  Raises:
    UserError: it is not an exported file, is damaged, or of a newer format.
  """
  remedy = "export the run again"
  changed = files.damaged(path, "its SHA-256 is not that of its content: it is not an export", remedy)
  try:
    content = path.read_bytes()
    if not (sealed := _is_sealed(content)) and not _has_no_seal(content):
      raise changed
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      described = archive.read(_ABOUT)
  except (zipfile.BadZipFile, KeyError, IsADirectoryError) as error:
    raise files.damaged(path, "it is not an export", remedy) from error
  described = files.parse_json(described, path, dict, remedy)
  if "format" in described:
    if not sealed:  # every file with a format number has a seal
      raise changed
    files.check_format(described, _FORMAT, path, described["about"]["bt_jax"], remedy)
  return content, files.check(Described, described, path, remedy)


def make_function(
  segmenters: Sequence[Network], classifiers: Sequence[Network], decision: Decision
) -> Callable[[Float[Array, "slices height width channels"]], dict[str, Array]]:
  """Makes a function of a whole volume, in any scale and size.

  Returns:
    `function(volume, aspect)`, where aspect is the height of a pixel divided by its width. It returns `probability` and
    `mask` [slices, height, width], `slice_probability` and `gated` [slices], as in `Predictor.predict`. With several
    classes `probability` and `mask` are [slices, height, width, classes].
  """
  info = decision.info
  ensemble = make_ensemble(
    segmenters, classifiers, tta=decision.tta, gate=decision.gate, temperature=decision.temperature
  )

  def function(
    volume: Float[Array, "slices height width channels"], aspect: resampling.Aspect = 1.0
  ) -> dict[str, Array]:
    slices, height, width, _ = volume.shape
    scaled = resampling.scale(volume, *resampling.window(volume, info.window))
    statistics = dict(zip(("volume_mean", "volume_std"), resampling.statistics(scaled, aspect), strict=True))
    repeated = {name: jnp.tile(values, (_GROUP, 1)) for name, values in statistics.items()}

    def of_group(images: dict[View, Array]) -> tuple[Array, Array, Array]:
      logits = ensemble.forward(ensemble.variables, {"image": images, **repeated})
      members, slice_probability, gated, _ = ensemble.outputs(logits, aspect, height=height, width=width)
      return members.mean(0), slice_probability, gated

    # Groups of a known size compile once; the last is padded with slices that are thrown away.
    groups = (slices + _GROUP - 1) // _GROUP

    def grouped(view: View) -> Array:
      seen = with_neighbours(resampling.to_network(scaled, view.size, aspect), view.context)
      filled = jax.lax.pad(seen, jnp.float32(0), [(0, groups * _GROUP - slices, 0), *[(0, 0, 0)] * 3])
      return filled.reshape(groups, _GROUP, *seen.shape[1:])

    views = sorted({network.view for network in (*segmenters, *classifiers)})
    mapped = jax.lax.map(of_group, {view: grouped(view) for view in views})
    probability, slice_probability, gated = (
      array.reshape(groups * _GROUP, *array.shape[2:])[:slices] for array in mapped
    )
    masks = class_masks(probability, threshold=decision.threshold, overlapping=info.overlapping)
    if decision.largest_component:
      masks &= largest_part(masks.any(-1))[..., None]
    if len(info.classes) == 1:
      probability, masks = probability.squeeze(-1), masks.squeeze(-1)
    return {"probability": probability, "mask": masks, "slice_probability": slice_probability, "gated": gated}

  return function


def largest_part(mask: Bool[Array, "slices height width"]) -> Bool[Array, "slices height width"]:
  """`postprocess.largest_part` in JAX, where it is traced: each voxel takes the lowest number among its neighbours."""
  outside = jnp.iinfo(jnp.int32).max
  own = jnp.where(mask, jnp.arange(mask.size, dtype=jnp.int32).reshape(mask.shape), outside)

  def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
    numbers, _ = state
    lowest = jax.lax.reduce_window(numbers, jnp.int32(outside), jax.lax.min, (3, 3, 3), (1, 1, 1), "SAME")
    lowest = jnp.where(mask, lowest, outside)
    return lowest, (lowest != numbers).any()

  numbers, _ = jax.lax.while_loop(lambda state: state[1], spread, (own, jnp.array(True)))
  sizes = jnp.zeros(mask.size, jnp.int32).at[numbers.ravel()].add(1, mode="drop")
  return mask & (numbers == sizes.argmax())


def program(described: dict[str, Any]) -> bytes:
  """A zip that Python runs: the description of the networks, the program, and the package that `jax.export` reads with."""
  (folder,) = importlib.util.find_spec("flatbuffers").submodule_search_locations
  members = {
    _ABOUT: json.dumps(described, indent=2, allow_nan=False).encode(),
    "__main__.py": pathlib.Path(standalone.__file__).read_bytes(),
    **{f"flatbuffers/{file.name}": file.read_bytes() for file in sorted(pathlib.Path(folder).glob("*.py"))},
  }
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w") as archive:
    for name, member in members.items():  # all with one date, so that the same networks give the same bytes
      archive.writestr(zipfile.ZipInfo(name), member, zipfile.ZIP_DEFLATED)
  return content.getvalue()
