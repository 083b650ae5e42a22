"""Study after study: each is read while the one before is predicted, and written while the next one is."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import filelock
from tqdm import tqdm

from bt_jax import files
from bt_jax.errors import MachineError, UserError
from bt_jax.inference import outputs
from bt_jax.inference.predictor import Prediction, Predictor
from bt_jax.scans import studies
from bt_jax.scans.scan import NOTICE, Scan
from bt_jax.scans.studies import Study

_TOLD = ("tumor", "probability", "voxels", "volume_mm3", "largest_diameter_mm", "looks_wrong", "warnings")
_COLUMNS = ("study", "status", *_TOLD, "error")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a text begins that a spreadsheet computes
Item, Result = TypeVar("Item"), TypeVar("Result")


def predict(
  source: pathlib.Path | None,
  output: pathlib.Path,
  *,
  given: Mapping[str, str],
  probabilities: bool,
  shard: str | None,
  load: Callable[[], Predictor],
) -> None:
  """Predicts the studies in a file or folder; skips those that are finished, tells of those that cannot be read.

  Args:
    source: a file, a zip or a folder; None where `given` names files.
    output: gets the files of the one study, or a folder for each of several, and a table of all.
    given: by role, see `studies.find`.
    probabilities: whether they are written, too.
    shard: `i/n`: every n-th study from the i-th on; None: all.
    load: the networks; called once the studies are found.

  Raises:
    UserError: there is nothing to read, the output holds something else, or a study could not be predicted.
  """
  found = studies.find(source, given)
  chosen = found if shard is None else studies.shard(found, shard)
  if not chosen:
    print(f"no study falls to shard {shard}, there are {len(found)}")
    return
  table = None
  if len(found) > 1 or found[0].name:
    table = output / ("studies.csv" if shard is None else f"studies_{shard.replace('/', '_of_')}.csv")
  with _writable(output, table):
    work = _Work(output, load(), probabilities)
    finished = {study.name: work.finished(study) for study in chosen}  # hashes alone, however many there are
    rows = []
    try:
      for row in _stream(work, chosen, finished):
        rows.append(row)
        if table and row["error"]:
          tqdm.write(f"{row['study']}: {row['error']}", file=sys.stderr)
    finally:
      if table and rows:
        files.write_csv(table, [{name: _harmless(value) for name, value in row.items()} for row in rows])
    if table:
      _tell_of_all(rows, table)
    else:
      _tell_of_one(rows[0], output)


@dataclasses.dataclass(frozen=True)
class _Work:
  """What is done to every study."""

  output: pathlib.Path
  predictor: Predictor
  probabilities: bool

  def options(self, study: Study) -> dict[str, Any]:
    """What a prediction of it depends on beside its bytes and the networks."""
    names = {role: told if study.format == "dicom" else pathlib.Path(told).name for role, told in study.given.items()}
    return {"probabilities": self.probabilities, "given": names}

  def finished(self, study: Study) -> str | None:
    """The hash of what was predicted before, None for nothing.

    Raises:
      UserError: something else stands in its place.
    """
    folder = self.output / study.name
    done = outputs.finished(folder)
    if done is None:
      outputs.check_free(folder)
      return None
    if differ := outputs.differences(done, self.predictor, self.options(study)):
      raise UserError(f"{folder} holds a prediction that differs in {', '.join(differ)}: choose another --output")
    return done["input"]["sha256"]

  def read(self, study: Study, done: str | None) -> Scan | None:
    """The scan; None where its prediction is there."""
    if done is None:
      return studies.read(study)
    if done != studies.sha256(study):
      raise UserError(
        f"{self.output / study.name} holds the prediction of other files: remove it, or choose another --output"
      )
    return None

  def predict(self, scan: Scan | UserError | None, *, progress: bool) -> Prediction | UserError | None:
    """The prediction of a scan; what is none stays what it is."""
    return self.predictor.predict(scan, progress=progress) if isinstance(scan, Scan) else scan

  def write(self, study: Study, prediction: Prediction | UserError | None) -> dict[str, Any]:
    """The row of the table; None stands for a prediction that is there."""
    if isinstance(prediction, UserError):
      raise prediction
    folder = self.output / study.name
    if prediction is not None:
      outputs.save(prediction, folder, probabilities=self.probabilities, options=self.options(study))
    done = outputs.finished(folder)
    told = {name: done[name] for name in _TOLD} | {"warnings": "; ".join(done["warnings"])}
    return {"study": study.name, "status": "predicted" if prediction else "was there", **told, "error": None}


def _stream(work: _Work, chosen: Sequence[Study], finished: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
  """A row of the table for each study; no more than three of them are in memory."""
  alone = len(chosen) == 1  # the bar is then of slices
  scans = _one_ahead(lambda study: work.read(study, finished[study.name]), chosen)
  marked = ((study, work.predict(scan, progress=alone)) for study, scan in scans)
  written = _one_ahead(lambda pair: work.write(*pair), marked)
  for (study, _), row in tqdm(written, total=len(chosen), desc="predicting", unit="study", disable=alone):
    failed = isinstance(row, UserError)
    yield dict.fromkeys(_COLUMNS) | {"study": study.name, "status": "failed", "error": str(row)} if failed else row


def _one_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | UserError]]:
  """Each item with what the function makes of it, in a thread that works on the next while this one is used."""

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
  """A text that a spreadsheet would compute, as `=1+1`, with the apostrophe before it that makes it a text there too."""
  return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@contextlib.contextmanager
def _writable(output: pathlib.Path, table: pathlib.Path | None) -> Iterator[None]:
  """Makes the output folder, and takes it away again where nothing came into it."""
  outputs.check_folder(output)
  was_there = output.exists()
  try:
    output.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=output).close()
  except OSError as error:
    raise UserError(f"cannot write to {output} ({error.strerror}): choose another --output") from error
  if table and table.is_file() and [[*row] for row in files.read_csv(table)[:1]] != [[*_COLUMNS]]:
    raise UserError(f"{table} is another table than that of predictions: choose another --output")
  lock = filelock.FileLock(output / f".{table.stem if table else 'study'}.lock", timeout=0)
  try:
    lock.acquire()
  except filelock.Timeout as error:
    raise UserError(f"{output} is in use by another process: wait for it, or choose another --output") from error
  try:
    yield
  finally:
    lock.release()
    pathlib.Path(lock.lock_file).unlink(missing_ok=True)
    if not was_there:
      with contextlib.suppress(OSError):  # something is in it
        output.rmdir()


def _tell_of_one(row: dict[str, Any], output: pathlib.Path) -> None:
  if row["error"]:
    raise UserError(row["error"])
  done = outputs.finished(output)
  size = f"{done['voxels']} voxels" + ("" if done["volume_ml"] is None else f", {done['volume_ml']:.2f} ml")
  first, last = done["slice_range"] or (0, 0)
  where = (
    f"{size}, slices {first} to {last} of {len(done['slices'])}" if done["tumor"] else f"{len(done['slices'])} slices"
  )
  told = "tumour marked" if done["tumor"] else "no tumour marked"
  print(f"\n{done['study']}: {told} ({where}); probability {done['probability']:.3f}")
  for role, read in done["roles"].items():
    print(f"  {role:<5} read from {read}")
  if done["looks_wrong"]:
    print("  it looks unlike the scans that the networks were trained on")
  for warning in done["warnings"]:
    print(f"  warning: {warning}")
  print(f"  by {done['model']['title']}")
  print("written:" if row["status"] == "predicted" else "there already, of these very files and networks:")
  for path, count in collections.Counter(path.split("/")[0] for path in done["files"]).items():
    print(f"  {output / path}{f' ({count} files)' if (output / path).is_dir() else ''}")
  print(NOTICE)


def _tell_of_all(rows: Sequence[dict[str, Any]], table: pathlib.Path) -> None:
  count = collections.Counter(row["status"] for row in rows)
  marked = sum(bool(row["tumor"]) for row in rows)
  told = ", ".join(f"{number} {status}" for status, number in count.items())
  odd = sum(bool(row["looks_wrong"]) for row in rows)
  print(f"\n{len(rows)} studies: {told}; tumour marked in {marked}; {odd} look unlike what the networks know")
  print(f"written:\n  {table}\n  {table.parent}/<study>/prediction.json, masks, overlays\n{NOTICE}")
  if count["failed"]:
    raise UserError(
      f"{count['failed']} of {len(rows)} studies could not be predicted: the column error of {table} says why"
    )
