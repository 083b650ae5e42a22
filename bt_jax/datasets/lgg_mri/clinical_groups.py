"""Groups of the LGG data set's patients: by hospital, grade, missing sequences, tumour size and molecular cluster."""

from bt_jax.datasets.lgg_mri.constants import CLINICAL_FIELDS, GENOMIC_CLUSTERS, UNKNOWN
from bt_jax.datasets.patient_groups import (
  NOT_KNOWN,
  SIZE_TITLE,
  GroupOf,
  PatientGroups,
  by_field,
  by_size,
  missing_sequences,
)

_GRADE = "neoplasm_histologic_grade"
_GRADES = {1: "II", 2: "III"}  # of the World Health Organization, as data.csv codes them
_FLAGS = ("has_pre", "has_post")
_TITLES = {
  "site": "hospital", "grade": "WHO grade", "sequences": "missing sequences", "size": SIZE_TITLE,
  "RNASeqCluster": "cluster of RNA expression", "MethylationCluster": "cluster of DNA methylation",
  "miRNACluster": "cluster of micro-RNA", "CNCluster": "cluster of copy numbers", "RPPACluster": "cluster of proteins",
  "OncosignCluster": "OncoSign cluster", "COCCluster": "cluster of clusters",
}  # fmt: skip


def _by_cluster(name: str) -> GroupOf:
  title = name.removesuffix("Cluster")
  return lambda row: NOT_KNOWN if row[name] == UNKNOWN else f"{title} {row[name]}"


GROUPS = PatientGroups(
  codes=frozenset(CLINICAL_FIELDS),
  flags=_FLAGS,
  groupings={
    "site": by_field("site"),
    "grade": lambda row: _GRADES.get(row[_GRADE], NOT_KNOWN),
    "sequences": lambda row: missing_sequences(row, _FLAGS),
    "size": by_size,
    **{name: _by_cluster(name) for name in GENOMIC_CLUSTERS},
  },
  titles=_TITLES,
)
