"""Writes `croissant.json`, the description of the published slices and their folds: python -m bt_jax.datasets.lgg_mri.describe."""

import datetime
import hashlib
import pathlib

from bt_jax import files
from bt_jax.datasets.lgg_mri import kaggle_tree
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.datasets.own_data.croissant import NAME, VERSION
from bt_jax.errors import needs

FOLDER = pathlib.Path(__file__).parent
_TREE = "kaggle_3m"
_NAME = r"(TCGA_[A-Z0-9]+_[A-Z0-9]+_[0-9]+)_([0-9]+)\.tif$"  # case and slice


@needs("croissant", "a description in Croissant")
def write(folder: pathlib.Path = FOLDER) -> pathlib.Path:
  """Writes the description; the slices themselves are got from Kaggle and are not part of this project.

  Args:
    folder: folder to write to.

  Raises:
    UserError: `mlcroissant` is not installed.
  """
  import mlcroissant as mlc

  table = FOLDER / "folds.csv"
  column = lambda name: mlc.Source(file_object="folds.csv", extract=mlc.Extract(column=name))
  of_name = lambda pattern: mlc.Source(
    file_set="images", extract=mlc.Extract(file_property="filename"), transforms=[mlc.Transform(regex=pattern)]
  )
  field = lambda name, about, kind, source: mlc.Field(
    id=name, name=name.rpartition("/")[2], description=about, data_types=[kind], source=source
  )
  described = mlc.Metadata(
    name=INFO.name,
    description=(
      f"{kaggle_tree.FULL_SLICES} axial brain MRI slices of {kaggle_tree.FULL_PATIENTS} patients with lower-grade glioma "
      f"({', '.join(INFO.channels)} as the channels of an image), masks of the FLAIR abnormality, and {INFO.folds} folds of "
      "patients."
    ),
    conforms_to=[VERSION],
    url="https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
    license=["https://creativecommons.org/licenses/by-nc-sa/4.0/"],
    cite_as=INFO.citation,
    version="1.0.0",
    date_published=datetime.datetime(2019, 5, 31),
    distribution=[
      mlc.FileObject(
        id="folds.csv",
        name="folds.csv",
        content_url="folds.csv",
        encoding_formats=["text/csv"],
        sha256=hashlib.sha256(table.read_bytes()).hexdigest(),
      ),
      mlc.FileSet(id="images", name="images", encoding_formats=["image/tiff"], includes=[f"{_TREE}/*/*[0-9].tif"]),
      mlc.FileSet(id="masks", name="masks", encoding_formats=["image/tiff"], includes=[f"{_TREE}/*/*_mask.tif"]),
      mlc.FileSet(id="clinical", name="clinical", encoding_formats=["text/csv"], includes=[f"{_TREE}/data.csv"]),
    ],
    record_sets=[
      mlc.RecordSet(
        id="folds",
        name="folds",
        description="The fold of each patient; fold n is the split fold_<n> of the TFDS builder.",
        fields=[
          field("folds/patient", "A patient of TCGA.", mlc.DataType.TEXT, column("patient")),
          field("folds/fold", f"0 to {INFO.folds - 1}.", mlc.DataType.INTEGER, column("fold")),
        ],
      ),
      mlc.RecordSet(
        id="slices",
        name="slices",
        description="Every slice; its mask is the file of the same name with _mask before the suffix.",
        fields=[
          field("slices/case", "Patient and date of the examination.", mlc.DataType.TEXT, of_name(_NAME)),
          # Not the image itself: mlcroissant 1.1 multiplies 8-bit TIFF by 255, which overflows.
          field("slices/file", f"Its file; channels {', '.join(INFO.channels)}.", mlc.DataType.TEXT, of_name("(.*)")),
        ],
      ),
    ],
  )
  return files.write_json(folder / NAME, described.to_json())


if __name__ == "__main__":
  print(write())
