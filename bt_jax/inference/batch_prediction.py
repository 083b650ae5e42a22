"""Predicts one study after another; each is read while the one before is predicted, and written while the next one is."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from bt_jax import files
from bt_jax.errors import MachineError, StudiesFailed, UserError
from bt_jax.inference import claims, dataset_layouts, dicom_extras, writer
from bt_jax.inference import studies as studies_of
from bt_jax.inference.predictor import Prediction, Predictor
from bt_jax.scans import reader
from bt_jax.scans.file_types import EXPECTED
from bt_jax.scans.reader import Study
from bt_jax.scans.scan import NOTICE, Scan

_REPORTED = (
  "uncertainty",
  "tumor",
  "probability",
  "voxels",
  "volume_mm3",
  "largest_diameter_mm",
  "looks_wrong",
  "warnings",
)
_COLUMNS = ("study", "status", *_REPORTED, "error")
_FIRST = 5  # studies that the console names as those to look at first
_PAUSE = 0.5  # seconds before claimed studies are tried again
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of texts that a spreadsheet computes
Item, Result = TypeVar("Item"), TypeVar("Result")


def predict(
  source: pathlib.Path | None,
  output: pathlib.Path,
  *,
  given: Mapping[str, str],
  probabilities: bool,
  uncertainty: bool = False,
  also: Sequence[str] = (),
  shard: str | None,
  layout: str | None = None,
  load: Callable[[], Predictor],
) -> None:
  """Predicts the studies in a file or folder; skips those that are finished, reports those that cannot be read.

  Args:
    source: a file, a zip or a folder; None where `given` names files.
    output: folder for the files of a single study, or for a folder for each of several and a table of all. Other
      processes may work on the same studies: each study is claimed, and those that another has claimed come last.
    given: paths or UIDs by role, see `studies.find`.
    probabilities: whether to write probabilities, too.
    uncertainty: whether to write maps of uncertainty, too, see `writer.save`.
    also: what else to write of DICOM scans, see `writer.save`.
    shard: `i/n`: every n-th study from the i-th on; None for all.
    layout: a name of `dataset_layouts.LAYOUTS`, in which masks are written a second time; None for no second time.
    load: loads the networks, whose channels say what a study is.

  Raises:
    UserError: there is nothing to read, no such name in `also`, the output holds something else, or the only study could not be predicted.
    StudiesFailed: some of several studies could not be predicted.
  """
  also = dicom_extras.check(also)
  if source is not None and not source.exists():  # before networks are opened, which takes seconds
    raise UserError(f"{source} is not there: name a file or a folder that is ({EXPECTED})", "input")
  predictor = load()
  studies = studies_of.find(source, given, predictor.info)
  chosen = studies if shard is None else reader.shard(studies, shard)
  if not chosen:
    print(f"no study falls to shard {shard}, there are {len(studies)}")
    return
  writer.check_folder(output)
  top, output = output, output / dataset_layouts.OWN_FOLDER if layout else output
  table = None
  if len(studies) > 1 or studies[0].name:
    table = output / ("studies.csv" if shard is None else f"studies_{shard.replace('/', '_of_')}.csv")
  with _writable(output, table):
    outputs = {"probabilities": probabilities}
    outputs |= {
      name: value for name, value in {"uncertainty": uncertainty, "also": also}.items() if value
    }  # older ones have none
    work = _Work(
      output, predictor, outputs, functools.partial(dataset_layouts.arrange, layout, top) if layout else None
    )
    for study in chosen:  # files that must not be overwritten are reported before any work
      work.finished(study)
    rows = []
    try:
      for row in _stream(work, chosen):
        rows.append(row)
        if table and row["error"]:
          tqdm.write(f"{row['study']}: {row['error']}", file=sys.stderr)
    finally:
      if table and rows:
        _write_table(table, _first_to_look_at(rows, chosen))
      for release in [*work.claimed.values()]:
        release()
    arranged = f"  {top}: masks in the layout {layout}\n" if layout else ""
    if table:
      _print_all(_first_to_look_at(rows, chosen), table, arranged)
    else:
      _print_one(rows[0], output, arranged)


class Elsewhere:
  """Stands for a study that another process has claimed."""


Read = Scan | UserError | Elsewhere | None


@dataclasses.dataclass(frozen=True)
class _Work:
  """The steps for every study, and how to release those that are claimed."""

  output: pathlib.Path
  predictor: Predictor
  outputs: dict[str, Any]  # see `writer.save`
  arrange: Callable[..., None] | None = None  # takes a finished study's folder, its `prediction.json` and the data set
  claimed: dict[str, Callable[[], None]] = dataclasses.field(default_factory=dict)

  def options(self, study: Study) -> dict[str, Any]:
    """What a prediction depends on besides the study's bytes and the networks."""
    names = {role: value if study.of_series else pathlib.Path(value).name for role, value in study.given.items()}
    return {**self.outputs, "given": names}

  def finished(self, study: Study) -> writer.Done | None:
    """The content of an earlier `prediction.json`, None if there is none.

    Raises:
      UserError: other files are in its place.
    """
    folder = self.output / study.name
    done = writer.finished(folder)
    if done is None:
      writer.check_free(folder)
    elif differ := writer.differences(done, self.predictor, self.options(study)):
      raise UserError(
        f"{folder} holds a prediction that differs in {', '.join(differ)}: choose another output", "output"
      )
    return done

  def read(self, study: Study) -> Scan | Elsewhere | None:
    """Claims and reads a study; None where its prediction is there with all its files."""
    release = claims.claim(self.output, study.name)
    if release is None:
      return Elsewhere()
    self.claimed[study.name] = release
    try:
      done = self.finished(study)  # read again, now that no other process writes
      if done is not None and done["input"]["sha256"] != reader.sha256(study):
        raise UserError(
          f"{self.output / study.name} holds the prediction of other files: remove it, or choose another output",
          "output",
        )
      return None if done is not None and not writer.missing(self.output / study.name, done) else self._read(study)
    except BaseException:
      self.release(study)
      raise

  def _read(self, study: Study) -> Scan:
    return studies_of.read(study, self.predictor.info)

  def release(self, study: Study) -> None:
    """Releases the claim on a study."""
    if release := self.claimed.pop(study.name, None):
      release()

  def predict(self, scan: Read, *, progress: bool) -> Prediction | UserError | Elsewhere | None:
    """The prediction of a scan; anything else is returned as it is."""
    return self.predictor.predict(scan, progress=progress) if isinstance(scan, Scan) else scan

  def write(self, study: Study, prediction: Prediction | UserError | Elsewhere | None) -> dict[str, Any] | None:
    """The row of the table; None where another process has the study."""
    if isinstance(prediction, Elsewhere):
      return None
    try:
      return self._write(study, prediction)
    finally:
      self.release(study)

  def _write(self, study: Study, prediction: Prediction | UserError | None) -> dict[str, Any]:
    if isinstance(prediction, UserError):
      raise prediction
    folder = self.output / study.name
    if prediction is not None:
      writer.save(prediction, folder, **self.outputs, options=self.options(study))
    done = writer.finished(folder)
    if self.arrange is not None:
      self.arrange(folder, done, self.predictor.info)
    columns = {name: done.get(name) for name in _REPORTED} | {"warnings": "; ".join(done["warnings"])}
    return {"study": study.name, "status": "predicted" if prediction else "was there", **columns, "error": None}


def _stream(work: _Work, chosen: Sequence[Study]) -> Iterator[dict[str, Any]]:
  """A row of the table for each study; those that other processes have claimed are tried again until they are free."""
  alone = len(chosen) == 1  # then the bar counts slices
  with tqdm(total=len(chosen), desc="predicting", unit="study", disable=True if alone else None) as bar:
    while chosen:
      elsewhere = []
      for study, row in _once(work, chosen, alone):
        if row is None:
          elsewhere.append(study)
        else:
          bar.update()
          yield row
      if len(elsewhere) == len(chosen):  # nothing is claimed here while this waits
        bar.set_postfix_str(f"waiting for {len(elsewhere)} in other processes")
        time.sleep(_PAUSE)
      chosen = elsewhere


def _once(work: _Work, chosen: Sequence[Study], alone: bool) -> Iterator[tuple[Study, dict[str, Any] | None]]:
  """Each study with its row, None where another process has it; at most three studies are in memory."""
  scans = _one_ahead(work.read, chosen)
  predictions = ((study, work.predict(scan, progress=alone)) for study, scan in scans)
  for (study, _), row in _one_ahead(lambda pair: work.write(*pair), predictions):
    failed = isinstance(row, UserError)
    failure = dict.fromkeys(_COLUMNS) | {"study": study.name, "status": "failed", "error": row}
    yield study, failure if failed else row


def _one_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | UserError]]:
  """Each item with the function's result, from a thread that works on the next item while this one is used."""

  def attempt(item: Item) -> tuple[Item, Result | UserError]:
    try:
      return item, function(item)
    except MachineError:
      raise
    except UserError as error:
      return item, error

  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    waiting = None
    for item in items:
      following = pool.submit(attempt, item)
      if waiting is not None:
        yield waiting.result()
      waiting = following
    if waiting is not None:
      yield waiting.result()


def _harmless(value: Any) -> Any:
  """Puts an apostrophe before a text that a spreadsheet would compute, such as `=1+1`, so that it stays a text."""
  value = str(value) if isinstance(value, UserError) else value
  return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@contextlib.contextmanager
def _writable(output: pathlib.Path, table: pathlib.Path | None) -> Iterator[None]:
  """Makes the output folder, and removes it again if it stays empty."""
  writer.check_folder(output)
  was_there = output.exists()
  try:
    output.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=output).close()
  except OSError as error:
    raise UserError(f"cannot write to {output} ({error.strerror}): choose another output", "output") from error
  if table and table.is_file() and not table.read_bytes().startswith(",".join(_COLUMNS[:2]).encode()):
    raise UserError(f"{table} is not a table of predictions: choose another output", "output")
  try:
    yield
  finally:
    if not was_there:
      with contextlib.suppress(OSError):  # something is in it
        output.rmdir()


def _first_to_look_at(rows: Sequence[dict[str, Any]], chosen: Sequence[Study]) -> list[dict[str, Any]]:
  """The rows by falling uncertainty; those without one, which failed or are of an earlier version, come last, in the order of studies."""
  order = {study.name: position for position, study in enumerate(chosen)}
  unsure = lambda row: (row["uncertainty"] is None, -(row["uncertainty"] or 0), order[row["study"]])
  return sorted(rows, key=unsure)


def _write_table(table: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
  """Writes the table, one process at a time; if several have the same studies, the last one's table stays."""
  while (release := claims.claim(table.parent, f"table {table.name}")) is None:
    time.sleep(_PAUSE)
  try:
    files.write_csv(table, [{name: _harmless(value) for name, value in row.items()} for row in rows])
  finally:
    release()


def _print_one(row: dict[str, Any], output: pathlib.Path, arranged: str) -> None:
  if row["error"]:
    raise row["error"]
  done = writer.finished(output)
  size = f"{done['voxels']} voxel{'s' * (done['voxels'] != 1)}" + (
    "" if done["volume_ml"] is None else f", {done['volume_ml']:.2f} ml"
  )
  first, last = (index + 1 for index in done["slice_range"] or (0, 0))
  where = (
    f"{size}, slices {first} to {last} of {len(done['slices'])}" if done["tumor"] else f"{len(done['slices'])} slices"
  )
  unsure = f", uncertainty {done['uncertainty']:.2f}" if "uncertainty" in done else ""
  verdict = "tumour segmented" if done["tumor"] else "no tumour segmented"
  print(f"\n{done['study']}: {verdict} ({where}); probability {done['probability']:.3f}{unsure}")
  for role, read in done["roles"].items():
    print(f"  {role:<5} read from {read}")
  if done["looks_wrong"]:
    print("  it looks unlike the scans that the networks were trained on")
  for warning in done["warnings"]:
    print(f"  warning: {warning}")
  print(f"  by {done['model']['title']}")
  print("written:" if row["status"] == "predicted" else "already there, for the same files and networks:")
  for path, count in collections.Counter(path.split("/")[0] for path in ("prediction.json", *done["files"])).items():
    print(f"  {output / path}{f' ({count} files)' if (output / path).is_dir() else ''}")
  print(f"{arranged}{NOTICE}")


def _print_all(rows: Sequence[dict[str, Any]], table: pathlib.Path, arranged: str) -> None:
  count = collections.Counter(row["status"] for row in rows)
  segmented = sum(bool(row["tumor"]) for row in rows)
  counts = ", ".join(f"{number} {status}" for status, number in count.items()).replace("was there", "there already")
  unlike = sum(bool(row["looks_wrong"]) for row in rows)
  print(
    f"\n{len(rows)} studies: {counts}; tumour segmented in {segmented}; {unlike} look unlike what the networks know"
  )
  named = [f"{row['study']} ({row['uncertainty']:.2f})" for row in rows if row["uncertainty"] is not None]
  if len(named) > 1:
    print(f"look at these first, by uncertainty: {', '.join(named[:_FIRST])}")
  print(f"written:\n{arranged}  {table}\n  {table.parent}/<study>/prediction.json, masks, overlays\n{NOTICE}")
  if count["failed"]:
    raise StudiesFailed(
      f"{count['failed']} of {len(rows)} studies could not be predicted: the column error of {table} says why"
    )
