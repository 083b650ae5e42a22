"""Describes a user's folder in Croissant 1.1, for tools that find and read data sets by it; the files stay where they are."""

import datetime
import pathlib

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data.collection import Collection
from bt_jax.errors import needs

NAME = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.1"
_TYPES = {
  ".gz": "application/gzip", ".nii": "application/octet-stream", ".png": "image/png", ".jpg": "image/jpeg",
  ".jpeg": "image/jpeg", ".tif": "image/tiff", ".tiff": "image/tiff",
}  # fmt: skip


@needs("croissant", "a description in Croissant")
def write(folder: pathlib.Path, collection: Collection, info: DatasetInfo) -> pathlib.Path:
  """Writes `croissant.json`: where images and masks are, and a record of each case.

  Args:
    folder: folder to write to, that of the built data set.
    collection: the user's files.
    info: the data set.

  Raises:
    UserError: `mlcroissant` is not installed.
  """
  import mlcroissant as mlc

  text = lambda name, about: mlc.Field(id=f"cases/{name}", name=name, description=about, data_types=[mlc.DataType.TEXT])
  listed = lambda paths: ", ".join(str(path.relative_to(collection.root)) for path in paths)
  fields = [
    text("case", "One examination."),
    text("patient", "Its patient."),
    text("images", f"Files of {', '.join(info.channels)}, in the root folder."),
    text("masks", f"Files of masks of {', '.join(info.classes)}."),
    *(text(f"of_patient/{name}", "By cases.csv.") for name in next(iter(collection.fields.values()), {})),
  ]
  rows = [
    {
      "cases/case": case.name,
      "cases/patient": case.patient,
      "cases/images": listed(path for group in case.images for path in group),
      "cases/masks": listed(case.masks),
      **{f"cases/of_patient/{name}": value for name, value in collection.fields.get(case.patient, {}).items()},
    }
    for case in collection.cases
  ]
  described = mlc.Metadata(
    name=info.name,
    description=f"{len(collection.cases)} cases of {len(collection.patients)} patients with masks of {', '.join(info.classes)}.",
    conforms_to=[VERSION],
    url=collection.root.resolve().as_uri(),
    license=[info.licence or "not stated"],
    cite_as=info.citation or "not stated",
    version="1.0.0",
    date_published=datetime.datetime.fromtimestamp(_newest(collection), datetime.UTC).replace(tzinfo=None),
    distribution=[
      mlc.FileSet(id=kind, name=kind, encoding_formats=types, includes=patterns)
      for kind, types, patterns in (
        (
          "images",
          *_patterns(collection, [path for case in collection.cases for group in case.images for path in group]),
        ),
        ("masks", *_patterns(collection, [path for case in collection.cases for path in case.masks])),
      )
    ],
    record_sets=[mlc.RecordSet(id="cases", name="cases", fields=fields, data=rows)],
  )
  return files.write_json(folder / NAME, described.to_json())


def _newest(collection: Collection) -> float:
  return max(path.stat().st_mtime for case in collection.cases for path in case.files)


def _patterns(collection: Collection, paths: list[pathlib.Path]) -> tuple[list[str], list[str]]:
  """The types of files, and patterns that name them below the root folder, by folder and suffix."""
  suffix = lambda path: ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix
  patterns = {f"{path.parent.relative_to(collection.root).as_posix()}/*{suffix(path)}" for path in paths}
  return sorted({_TYPES[path.suffix.lower()] for path in paths}), sorted(
    pattern.removeprefix("./") for pattern in patterns
  )
