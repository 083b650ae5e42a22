"""The tables of a run's statistics: overlap, classes, calibration, subgroups, patients, folds."""

from collections.abc import Sequence

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.patient_groups import NOT_KNOWN, missing_sequences
from bt_jax.datasets.registry import groups_of
from bt_jax.evaluation.aggregation import EMPTY_RULES
from bt_jax.evaluation.bootstrap import FEW, FEWEST
from bt_jax.reporting.page.html_tables import Cell, Group, Table, measured, numbers_of, table, text, title, value
from bt_jax.reporting.page.phrases import STEP, number, sentence


def overlap(test: Group, leaky: bool) -> Table:
  """Overlap by metric and aggregation; with `leaky`, volumes consist of their test slices only."""
  metrics = {"dice": "Dice (DSC, F1, SI)", "iou": "IoU (Jaccard)", "precision": "precision", "recall": "recall",
             "accuracy": "pixels right"}  # fmt: skip
  rows = [
    [
      text(words),
      measured(test["pooled"], name),
      measured(test["patient"], f"{name}_mean"),
      measured(test["patient"], f"{name}_median"),
      measured(test["slice"], f"{name}_empty_is_one"),
      measured(test["slice"], f"{name}_nonempty_truth", why="no value, as no slice has a tumour"),
    ]
    for name, words in metrics.items()
    if name in test["pooled"]
  ]
  notes = [
    f"(1) {EMPTY_RULES['empty_is_one']}. (2) {EMPTY_RULES['nonempty_truth']}. Pooled and per volume, an all-empty pair counts 1."
  ]
  if leaky:
    notes.append("Volumes: only the test slices of each patient.")
  if test["patient"].get("dice_std") is not None:
    spread = [number(test["patient"][f"dice_{name}"]) for name in ("std", "q25", "q75")]
    notes.append(
      f"Dice over volumes: standard deviation {spread[0]}, a quarter of them below {spread[1]} and a quarter above {spread[2]}."
    )
  heads = ("", "pixels pooled", "volume mean", "volume median", "slice mean (1)", "slice mean (2)")
  return table("Overlap of prediction and truth, by metric and aggregation", heads, rows, notes)


def by_class(test: Group) -> list[Table]:
  """The table of each class and their mean, if there are several classes."""
  if "classes" not in test:
    return []
  columns = {
    "Dice, pixels pooled": ("pooled", "dice"), "Dice, volume mean": ("patient", "dice_mean"),
    "Dice, volume median": ("patient", "dice_median"), "slices found": ("detection", "sensitivity"),
    "healthy slices with false positives": ("detection", "false_positive_rate"),
  }  # fmt: skip
  rows = [
    [text(name), *(measured(numbers[group], key) for group, key in columns.values())]
    for name, numbers in (*test["classes"].items(), ("mean over classes", test))
  ]
  return [table("By class; all other numbers on this page are the mean over classes", ("", *columns), rows)]


def classes(test: Group) -> Table:
  """A classifier's statistics over both classes."""
  names = ("accuracy", "roc_auc", "average_precision", "specificity", "ece")
  why = "no value, as all slices are of one class"
  rows = [[text(title(name)), measured(test, name, why=why)] for name in names if name in test]
  macro = test["macro"]
  rows += [[text(f"{title(name)}, mean of both classes"), measured(macro, name, why=why)] for name in numbers_of(macro)]
  return table("Slices classified", ("", "test set"), rows)


def errors(rows: list[Group], total: int) -> Table:
  """Wrongly classified slices; `total` is how many there are."""
  words = ("no tumour", "tumour")
  lines = [
    [
      text(f"{row['case']}, slice {row['slice']}"),
      text(words[row["label"]]),
      text(words[row["prediction"]]),
      value(row["probability"], "share"),
    ]
    for row in rows
  ]
  heads = ("slice", "truth", "predicted", "probability of tumour")
  return table(f"The most confident of {total} wrongly classified slices", heads, lines)


def confusion(counts: Group) -> Table:
  """Slices by truth and prediction, with their share of the true class."""
  rows = []
  for words, cells in (("no tumour", ("tn", "fp")), ("tumour", ("fn", "tp"))):
    total = sum(counts[name] for name in cells)
    shares = [counts[name] / total if total else 0.0 for name in cells]
    cells = [
      Cell(number(counts[name], "count"), number(share, "percent"), shade=share)
      for name, share in zip(cells, shares, strict=True)
    ]
    rows.append([text(words), *cells])
  heads = ("truth", "no tumour predicted", "tumour predicted")
  return table("Confusion matrix of test slices, with the share of the row", heads, rows)


def calibration(groups: Group) -> Table:
  """Calibration error before and after temperature scaling."""
  rows = [
    [
      text(name),
      measured(group, "ece"),
      measured(group, "ece_calibrated"),
      measured(group, "temperature", "factor", why="each of the pooled runs has its own"),
    ]
    for name, group in groups.items()
  ]
  notes = [
    "Expected calibration error over ten bins of equal width: 0 is best. The temperature divides the log odds; it is fitted on the "
    "validation set; above 1 the probabilities were overconfident."
  ]
  notes += [sentence(f"{name}: {group['why']}") for name, group in groups.items() if group["why"]]
  return table(
    "Expected calibration error", ("probabilities of", "as predicted", "after scaling", "temperature"), rows, notes
  )


def subgroups(groups: dict[str, list[Group]], info: DatasetInfo) -> dict[str, Table]:
  """One table for each way to group the patients of a data set, by its name."""
  tables, known = {}, groups_of(info)
  for name, members in groups.items():
    if not isinstance(members, list) or not members:
      continue
    names = numbers_of(members[0])
    rows = [
      [
        text(group["group"]),
        value(group.get("patients")),
        value(group.get("slices")),
        *(measured(group, number, "share") for number in names),
      ]
      for group in members
    ]
    few = any(FEWEST <= group["patients"] < FEW for group in members)
    notes = [f"Intervals of fewer than {FEW} patients are too narrow to rely on."] if few else []
    heading = known.title(name)
    tables[name] = table(f"By {heading}", (heading, "patients", "slices", *map(title, names)), rows, notes)
  return tables


def associations(tested: dict[str, list[Group]], info: DatasetInfo) -> Table:
  """Shape of the tumour against molecular clusters, for each kind of mask in `tested`."""
  known = groups_of(info)
  kinds = {"truth": "true masks", "predicted": "predicted masks"}
  sides = {
    words: {(row["feature"], row["grouping"]): row for row in tested[kind]}
    for kind, words in kinds.items()
    if kind in tested
  }
  rows = []
  for feature, grouping in dict.fromkeys(pair for side in sides.values() for pair in side):
    row = [text(title(feature)), text(known.title(grouping))]
    for side in sides.values():
      test = side[feature, grouping]
      above = zip(test["clusters"], test["above"], test["not_above"], strict=True)
      row.append(text(", ".join(f"{cluster}: {high} of {high + low}" for cluster, high, low in above)))
      row += [value(test[name], "p", why=f"no test: {test['why']}") for name in ("p", "p_holm")]
    rows.append(row)
  heads = ["shape", "clusters"]
  for words in sides:
    heads += [f"above the median by cluster, {words}", "p", "p, Holm"]
  notes = [
    "Each shape feature (Buda et al. 2019) is cut at its median; two-sided Freeman-Halton exact test against the clusters; Holm's "
    "correction over all tests of one kind of mask."
  ]
  return table("Shape of the tumour and molecular clusters", heads, rows, notes, sortable=True)


_COLUMNS = (
  # Column of patients.csv, heading and kind; absent columns are left out.
  ("site", "site", "text"), ("slices", "slices", "count"), ("tumor_slices", "with tumour", "count"),
  ("truth", "true px", "pixels"), ("predicted", "predicted px", "pixels"), ("accuracy", "accuracy", "share"),
  ("dice", "Dice", "share"), ("iou", "IoU", "share"), ("precision", "precision", "share"), ("recall", "recall", "share"),
  ("hd95", "HD95", "distance"), ("assd", "ASSD", "distance"),
)  # fmt: skip
_MISSING = (("missing", "sequences", "text"),)  # where the data set says which sequences were recorded


def patients(rows: list[Group], cases: dict[str, str], test: Group, info: DatasetInfo) -> Table:
  """The sortable table with one row per patient; `cases` maps patients to their case in the viewer."""
  segmented = "dice" in rows[0]
  flags = [flag for flag in groups_of(info).flags if flag in rows[0]]  # those of a cascade have no fields of patients
  seen = [_patient(row, segmented, flags) for row in rows]
  columns = [column for column in _COLUMNS if column[0] in seen[0] and not (segmented and column[0] == "accuracy")]
  columns += _MISSING if flags else ()
  surface = test.get("surface", {})  # of a classifier there is none
  why = f"no value: {surface.get('why', 'none in patients.csv')}"
  lines = [
    [
      text(row["patient"], case=cases.get(row["patient"], "")),
      *(
        text(row[name] or NOT_KNOWN) if kind == "text" else value(row[name], kind, why=why) for name, _, kind in columns
      ),
    ]
    for row in seen
  ]
  what = f"{info.reference_title} abnormality" if len(info.classes) == 1 else f"{' and '.join(info.classes)}, added up,"
  notes = [f"px: pixels of {what} in the whole volume."] if segmented else []
  if segmented and len(info.classes) > 1:
    notes.append("Dice, IoU, precision, recall and distances are the mean over the classes; patients.csv has each.")
  if "hd95" in seen[0]:
    notes.append(f"HD95 and ASSD in {surface['unit']}. {sentence(surface['empty'])}")
    notes += [STEP] if surface["unit"] == "pixels" else []
  return table(
    "Patients of the test set", ("patient", *(words for _, words, _ in columns)), lines, notes, sortable=True
  )


def _patient(row: Group, segmented: bool, flags: Sequence[str]) -> Group:
  seen = dict(row)
  if segmented:
    seen |= {"truth": row["tp"] + row["fn"], "predicted": row["tp"] + row["fp"]}
  if flags:
    seen["missing"] = missing_sequences(row, flags)
  return seen


def folds(runs: list[Group], links: dict[str, str]) -> Table:
  """The results of each run of a cross-validation; `links` maps folds to the addresses of their reports."""
  kinds = {"patients": "count", "slices": "count", "tumor_slices": "count", "threshold": "factor"}
  names = [name for name in numbers_of(runs[0], counts=()) if name not in ("fold", "seconds")]  # see `sections.about`
  label = lambda fold: value(fold) if isinstance(fold, int) else text(fold)  # groups of folds are text
  rows = [
    [
      label(run["fold"])._replace(link=links.get(str(run["fold"]), "")),
      *(measured(run, name, kinds.get(name, "share")) for name in names),
    ]
    for run in runs
  ]
  return table("Runs by test fold", ("fold", *map(title, names)), rows, sortable=True)
