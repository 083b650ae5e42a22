"""The values that the paper prints, and which of them contradict one another."""

from typing import Any, NamedTuple

from bt_jax.datasets.lgg_mri.constants import INFO

DATASET = INFO.name  # that the paper is about; the phantom, which imitates it, has the same name
# Table 2 of the paper (CNN) and the text of its section 4.2 (ResNet50): no tumour, tumour.
PRINTED = {
  "support": (("371", "219"), ("371", "219")),
  "accuracy": ((".92", ".96"), (".94", ".94")),
  "precision": ((".90", ".94"), (".93", ".96")),
  "recall": ((".97", ".83"), (".98", ".87")),
  "f1": ((".93", ".88"), (".95", ".92")),
  "dsc": ((".95", ".97"), ("-", "-")),
  "iou": ((".91", ".92"), ("-", "-")),
  "si": ((".95", ".97"), ("-", "-")),
}
CANNOT_HOLD = {
  "accuracy": "CNN: both of two classes have the same accuracy, so not .92 and .96; its precision and recall give .92",
  "dsc": "CNN: DSC is another name for F1, so not .97 beside .88; .95 fits the no-tumour class of the ResNet50 row",
  "iou": "CNN: IoU = DSC / (2 - DSC), so .97 implies .94, not .92; F1 of .88 implies .79",
  "si": "CNN: SI is another name for DSC and adds nothing",
}
NOTE = (
  "Section 6 prints the ResNet50's figures once more in other columns (no tumour: precision .98, recall .95, F1 .93, accuracy .94;\n"
  "tumour: .87, .92, .88, .96): .98 is its recall in section 4.2. All printed values are for slices drawn at random, which leaks."
)


def same_as(name: str) -> str:
  """Our name of a metric of Table 2: DSC and SI are F1."""
  return {"dsc": "f1", "si": "f1"}.get(name, name)


def table2_lines(per_class: dict[str, dict[str, Any]], model: str) -> list[str]:
  """The paper's Table 2 with our values on the test set beside the printed ones."""
  head = f"{'':10}{f'ours ({model})':>24}{'paper, CNN':>20}{'paper, ResNet50':>20}"
  lines = [
    head,
    f"{'':10}" + f"{'no tumour':>14}{'tumour':>10}" + f"{'no tumour':>12}{'tumour':>8}" * 2 + "   contradictions",
  ]
  for name, (cnn, resnet) in PRINTED.items():
    ours = [per_class[kind][same_as(name)] for kind in ("no_tumor", "tumor")]
    shown = ["-" if value is None else str(value) if name == "support" else f"{value:.4f}" for value in ours]
    cells = f"{shown[0]:>14}{shown[1]:>10}" + "".join(f"{pair[0]:>12}{pair[1]:>8}" for pair in (cnn, resnet))
    lines.append(f"{name:10}{cells}   {CANNOT_HOLD.get(name, '')}".rstrip())
  return lines


class Published(NamedTuple):
  """A published result, and the data that it was measured on.

  Attributes:
    result: the values as printed.
    data: the data, or how its test slices were drawn.
    by: the method or its authors.
    leaks: whether training and test have slices of the same patient.
  """

  result: str
  data: str
  by: str
  leaks: bool = False


# Table 3 of the paper, by the names of our methods of the same kind; None stands for our networks.
TABLE3 = {
  "otsu": Published("DSC .89", "BRATS 2015", "[41] multi-level threshold"),
  "kmeans": Published("SI .91", "BRATS 2017", "[42] K-means"),
  "darwinian_pso": Published("DSC .91", "BRATS 2012", "[43] random Darwinian"),
  "random_order_pso": Published("DSC .93", "BRATS 2015", "[44] particle swarm optimisation"),
  "morphological": Published("DSC .90", "BRATS 2015", "[45] morphological technique"),
  None: Published(
    "its ResUNet: SI .95, IoU .91, DSC .95", "TCGA-LGG and TCIA", "ResUNet with fine-tuned ResNet50", leaks=True
  ),
}
TABLE3_NOTE = (
  "The paper's own line equals, to the last digit, what its ResNet50 gets for the healthy class of slices (F1 .95, Jaccard .91): "
  "most likely it counts slices, not pixels. DSC, SI and F1 are one formula."
)

# Results of others on this data set.
ANCHORS = (
  Published(
    "Dice per volume: mean .836, median .873; human readers .84 ± .02",
    "patients, 22-fold cross-validation",
    "Buda et al. 2019, U-Net (the paper prints .82 and .85)",
  ),
  Published(
    "Dice per volume: mean .91, median .92, on the 10 patients that the best epoch was picked on",
    "patients, 10 of 110",
    "mateuszbuda/brain-segmentation-pytorch, U-Net with batch norm",
  ),
  Published("mean IoU of slices .857", "patients", "Attention U-Net, 2025"),
  Published("Dice .9516 (validation), IoU .923 (test)", "slices", "U-Net with ResNeXt50 encoder", leaks=True),
  Published("accuracy .94 (the paper), .95 to .98", "slices", "ResNet50 classifiers", leaks=True),
  Published(
    "accuracy .925 to .949, pooled Dice .77 to .81, without a look at the image",
    "slices",
    "a copy of the nearest training slice of the same patient",
    leaks=True,
  ),
)
FIGURES = {
  "1": "sample slices with their masks",
  "3": "confusion matrix of the CNN",
  "4": "accuracy and loss of the CNN",
  "5": "confusion matrix of the ResNet50",
  "6": "accuracy and loss of the ResNet50",
  "7": "predicted tumour",
  "8": "predicted no tumour",
  "9": "focal Tversky accuracy and loss",
}
