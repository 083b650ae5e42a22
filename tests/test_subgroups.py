import pytest

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.evaluation import subgroups


def patient(name, site, size, **fields):
  row = {"patient": name, "site": site, "truth_voxels": size, "has_pre": True, "has_post": True}
  return row | {"neoplasm_histologic_grade": 2, "RNASeqCluster": 1} | fields


PATIENTS = [
  patient("a", "CS", 10, neoplasm_histologic_grade=1),
  patient("b", "DU", 20, has_post=False),
  patient("c", "CS", 30, RNASeqCluster=-1, neoplasm_histologic_grade=-1),
  patient("d", "HT", 40, has_pre=False, has_post=False),
]
ROWS = [{"patient": row["patient"]} for row in PATIENTS for _ in range(row["truth_voxels"] // 10)]


def groups(name):
  numbers = lambda rows: {"patients_seen": sorted({row["patient"] for row in rows})}
  found = subgroups.summarize(PATIENTS, ROWS, (name,), numbers, INFO)[name]
  return {row["group"]: (row["patients"], row["slices"], row["patients_seen"]) for row in found}


def test_groups_and_counts_by_hand():
  assert groups("site") == {"CS": (2, 4, ["a", "c"]), "DU": (1, 2, ["b"]), "HT": (1, 4, ["d"])}
  assert groups("grade") == {"II": (1, 1, ["a"]), "III": (2, 6, ["b", "d"]), "not known": (1, 3, ["c"])}
  assert groups("sequences") == {
    "no post": (1, 2, ["b"]),
    "no pre nor post": (1, 4, ["d"]),
    "none missing": (2, 4, ["a", "c"]),
  }
  assert [members for _, _, members in groups("size").values()] == [["a"], ["b"], ["c"], ["d"]]
  assert groups("RNASeqCluster") == {"RNASeq 1": (3, 7, ["a", "b", "d"]), "not known": (1, 3, ["c"])}


def test_what_is_known_of_other_patients_groups_them_as_it_stands():
  """Also where a field has the name of one of the published data set, where it is a code or a flag."""
  info = DatasetInfo("own", ("t1", "t2"), ("core",), (1,), "t2", 64, patient_fields=("gender", "has_t1", "visits"))
  assert list(subgroups.groupings_of(info)) == ["gender", "has_t1", "visits", "size"]
  rows = [
    {"patient": name, "gender": gender, "has_t1": known, "visits": 0, "truth_voxels": size}
    for size, (name, gender, known) in enumerate([("a", "F", "no"), ("b", None, "")])
  ]
  of = lambda name: {
    group["group"]: group["patients"] for group in subgroups.summarize(rows, rows, (name,), lambda rows: {}, info)[name]
  }
  assert of("gender") == {"F": 1, "not known": 1} and of("has_t1") == {"no": 1, "not known": 1}
  assert of("visits") == {"0": 2}


def test_names():
  assert subgroups.parse("site, size", INFO) == ("site", "size")
  assert subgroups.parse("none", INFO) == () and set(subgroups.parse("all", INFO)) == set(subgroups.groupings_of(INFO))
  with pytest.raises(UserError, match="report.subgroups has 'hospital', expected all, none, or some of site, grade"):
    subgroups.parse("site,hospital", INFO)
