"""The answers of the server: the page, predictions and masks; nothing is stored but what it was asked to keep."""

import contextlib
import io
import itertools
import pathlib
import re
import tempfile
import urllib.parse
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import anyio
import numpy as np
from jaxtyping import Bool
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import OF_MACHINE, MachineError, UserError
from bt_jax.inference import dicom_extras, studies, writer
from bt_jax.inference.description import describe
from bt_jax.inference.segmented import Segmented, segments_of
from bt_jax.scans import archives, reader
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import Scan
from bt_jax.serving import corrections, guard, sent_studies, transport, uploads

_PAGE = pathlib.Path(__file__).parent / "page"


@runtime_checkable
class Predictor(Protocol):
  """The interface of a predictor: `inference.predictor.Predictor`, or any object with these three members."""

  about: dict[str, Any]
  info: DatasetInfo

  def predict(self, scan: Scan) -> Any: ...


def make_app(
  predictor: Predictor,
  *,
  host: str = "127.0.0.1",
  limit_mb: int = 512,
  limit_files: int = 5000,
  keep: pathlib.Path | None = None,
  fine_tuning: corrections.FineTuning | None = None,
) -> Starlette:
  """The application: `/` the page, `/about`, `/predict`, `/mask` and `/keep`.

  Args:
    predictor: predicts one scan at a time.
    host: the address to listen on; a server on a loopback address answers only to local names.
    limit_mb: largest total size of one upload's files, and of what its zips unpack to, in MB of 2**20 bytes.
    limit_files: largest number of files of one upload.
    keep: folder in which each prediction gets a numbered folder; None to keep nothing.
    fine_tuning: see `corrections.summary`.
  """
  service = _Service(predictor, uploads.Limits(limit_mb * 2**20, limit_files), keep, fine_tuning)
  return Starlette(
    routes=[
      Route("/about", service.about),
      Route("/predict", service.predict, methods=["POST"]),
      Route("/mask", service.mask, methods=["POST"]),
      Route("/keep", service.keep, methods=["POST"]),
      Mount("/", StaticFiles(directory=_PAGE, html=True)),
    ],
    middleware=guard.guards(host),
    exception_handlers={HTTPException: _refuse, ClientDisconnect: _gone, Exception: _fail},
  )


class _Service:
  def __init__(
    self,
    predictor: Predictor,
    limits: uploads.Limits,
    keep: pathlib.Path | None,
    fine_tuning: corrections.FineTuning | None,
  ):
    self._predictor, self._limits, self._keep_in, self._fine_tuning = predictor, limits, keep, fine_tuning
    self._info = predictor.info
    self._turn = anyio.Lock()

  async def about(self, request: Request) -> Response:
    """What the page shows before there is a scan."""
    return JSONResponse(
      {
        "model": self._predictor.about["title"],
        "limit_bytes": self._limits.bytes,
        "limit_files": self._limits.files,
        "keeps": self._keep_in is not None,
      }
    )

  async def predict(self, request: Request) -> Response:
    """Takes a scan's files, and answers with `transport.pack`.

    Of several studies, without the SHA-256 of one: with the list of them, see `Sent.listed`, of which each is then sent for.
    """
    async with _uploaded(request, self._limits) as (folder, upload):
      content = await self._in_turn(request, self._predicted, folder, upload)
    if isinstance(content, dict):
      return JSONResponse(content)
    return Response(content, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})

  async def mask(self, request: Request) -> Response:
    """Takes a scan's files and the page's mask, and answers with the mask in their format: one file, or a zip of several."""
    # The mask comes in addition to a scan that was within the limits without it.
    limits = uploads.Limits(2 * self._limits.bytes, self._limits.files)
    async with _uploaded(request, limits) as (folder, upload):
      _check_sent(upload, uploads.MASK)
      name, content = await self._in_turn(request, self._written, folder, upload)
    where = f"attachment; filename*=UTF-8''{urllib.parse.quote(name)}"
    return Response(content, media_type="application/octet-stream", headers={"Content-Disposition": where})

  async def keep(self, request: Request) -> Response:
    """Takes a scan's files, the page's mask and what it was corrected from, keeps the correction, and answers how to train from it."""
    if self._keep_in is None:
      raise HTTPException(403, "this server keeps nothing: download the mask, or start it with a folder to keep in")
    limits = uploads.Limits(3 * self._limits.bytes, self._limits.files)
    async with _uploaded(request, limits) as (folder, upload):
      _check_sent(upload, uploads.MASK, uploads.PREDICTED)
      content = await self._in_turn(request, self._kept, folder, upload)
    return JSONResponse(content)

  async def _in_turn(self, request: Request, work: Callable, *given: Any) -> Any:
    """Runs `work` in a thread, one at a time, as memory and the accelerator suffice for one."""
    async with self._turn:
      if await request.is_disconnected():
        raise ClientDisconnect
      # A thread cannot be stopped: when the server ends, its request is dropped, and `server.serve` does not wait for it.
      return await anyio.to_thread.run_sync(work, *given, abandon_on_cancel=True)

  def _predicted(self, folder: pathlib.Path, upload: uploads.Upload) -> bytes | dict[str, Any]:
    sent = self._sent(folder, upload)
    if "sha256" not in upload.texts and (len(sent.by_sha256) > 1 or sent.twice):
      return sent.listed()
    scan = self._read(sent, upload)
    prediction = self._predictor.predict(scan)
    described, kept = describe(prediction), None
    if self._keep_in is not None:
      kept = _numbered(self._keep_in)
      writer.save(prediction, kept)
    return transport.pack(described, prediction, kept and kept.name)

  def _kept(self, folder: pathlib.Path, upload: uploads.Upload) -> dict[str, str]:
    scan = self._read_predicted(folder, upload)
    masks, predicted = (self._masks(upload, field, scan) for field in (uploads.MASK, uploads.PREDICTED))
    algorithm = self._algorithm(upload)._replace(corrected=True)
    correction = corrections.Correction(scan, masks, predicted, algorithm, upload.texts.get("kept", ""))
    data = corrections.keep(self._keep_in, correction, self._info, self._predictor.about)
    said = corrections.summary(data, self._info, self._fine_tuning)
    print(f"kept {scan.name}: {said['line']}\n{said['command']}".rstrip(), flush=True)
    return said

  def _sent(self, folder: pathlib.Path, upload: uploads.Upload) -> sent_studies.Sent:
    return sent_studies.find(folder, upload, self._info, archives.Limits(*self._limits))

  def _read(self, sent: sent_studies.Sent, upload: uploads.Upload) -> Scan:
    return studies.read(sent.choose(upload.texts.get("sha256")), self._info, archives.Limits(*self._limits))

  def _read_predicted(self, folder: pathlib.Path, upload: uploads.Upload) -> Scan:
    """The scan, which must be the one that the page's mask was predicted for, where the page says which."""
    scan = self._read(self._sent(folder, upload), upload)
    if upload.texts.get("sha256", scan.sha256) != scan.sha256:
      raise UserError(
        f"the mask is of another scan than {scan.name}, or its files have changed: predict this scan again"
      )
    return scan

  def _masks(self, upload: uploads.Upload, field: str, scan: Scan) -> Bool[np.ndarray, "slices height width classes"]:
    content = upload.masks[field].read_bytes()
    return transport.unpack_masks(content, scan.image.shape[:3], len(self._info.classes))

  def _algorithm(self, upload: uploads.Upload) -> Algorithm:
    text = upload.texts.get("threshold")
    try:
      threshold = None if text is None else float(text)
    except ValueError as error:
      raise UserError(f"the threshold is {text!r}, expected a number from 0 to 1") from error
    if threshold is not None and not 0 <= threshold <= 1:
      raise UserError(f"the threshold is {text}, expected a number from 0 to 1")
    corrected = "corrected" in upload.texts
    return Algorithm(writer.SOFTWARE, self._predictor.about["title"], threshold, corrected)

  def _written(self, folder: pathlib.Path, upload: uploads.Upload) -> tuple[str, bytes]:
    """A file's name, and its content: a mask, or, with several classes, a label map; or what of DICOM is asked for in `also`."""
    scan = self._read_predicted(folder, upload)
    also = dicom_extras.check({upload.texts["also"]} if "also" in upload.texts else ())
    segmented = Segmented(scan, self._masks(upload, uploads.MASK, scan), self._info)
    if reasons := dicom_extras.lacking(also, segmented):
      raise UserError(f"{reasons[0]}: download the mask alone")
    mask, classes = segments_of(segmented.masks, self._info)
    out, algorithm = folder / "out", self._algorithm(upload)
    out.mkdir()
    paths = reader.FORMATS[scan.format].write(scan, out, mask, {}, algorithm=algorithm, classes=classes)
    more = dicom_extras.write(also, out, segmented, algorithm)
    if "sc" in also:
      paths, name = more, "secondary_capture.zip"
    else:
      paths, name = paths + more, "report.zip" if more else "masks.zip"  # a report refers to its Segmentation
    return (paths[0].name, paths[0].read_bytes()) if len(paths) == 1 else (name, _zipped(out, paths))


def _zipped(folder: pathlib.Path, paths: Sequence[pathlib.Path]) -> bytes:
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
    for path in paths:
      archive.write(path, path.relative_to(folder))
  return content.getvalue()


def _numbered(folder: pathlib.Path) -> pathlib.Path:
  """Makes a folder in this one with the first free number; no other process can then take it."""
  for number in itertools.count(1):
    with contextlib.suppress(FileExistsError):
      (folder / f"{number:04d}").mkdir(parents=True)
      return folder / f"{number:04d}"


@contextlib.asynccontextmanager
async def _uploaded(request: Request, limits: uploads.Limits) -> AsyncIterator[tuple[pathlib.Path, uploads.Upload]]:
  """A temporary folder with the request's files; errors in the files are answered with 422.

  Errors of this machine, such as a full disk, are answered with 507: the same files may pass later.
  """
  with tempfile.TemporaryDirectory(prefix="bt_jax_", ignore_cleanup_errors=True) as name:
    folder = pathlib.Path(name).resolve()
    try:
      yield folder, await uploads.receive(request, folder, limits)
    except UserError as error:
      status = 507 if isinstance(error, MachineError) else 422
      of_upload = str(error).replace(f"{folder}/{uploads.SCAN} ", "the upload ")
      raise HTTPException(status, re.sub(f"{re.escape(str(folder))}/({uploads.SCAN}/)?", "", of_upload)) from error
    except OSError as error:
      if error.errno not in OF_MACHINE:
        raise
      line = f"the server cannot write files ({error.strerror}): make room there, and send the scan again"
      raise HTTPException(507, line) from error


def _check_sent(upload: uploads.Upload, *fields: str) -> None:
  for field in fields:
    if field not in upload.masks:
      raise HTTPException(400, f"there is no mask: send it in the field {field!r}")


async def _refuse(request: Request, error: HTTPException) -> Response:
  return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
  return Response(status_code=400)  # nobody is there to read it


async def _fail(request: Request, error: Exception) -> Response:
  """An error of ours; the server's log has the traceback."""
  line = f"the server failed ({type(error).__name__}): its terminal says more"
  return JSONResponse({"error": line}, 500, headers=guard.HEADERS)
