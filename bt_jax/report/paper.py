"""What the paper prints, and which of it cannot hold together."""

from typing import Any

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
  "accuracy": "CNN: of two classes both have the same accuracy, so not .92 and .96; its precision and recall give .92",
  "dsc": "CNN: DSC is F1 by another name, so not .97 beside .88; .95 fits the no-tumour class of the ResNet50 row",
  "iou": "CNN: IoU = DSC / (2 - DSC), so .97 asks for .94, not .92; F1 of .88 asks for .79",
  "si": "CNN: SI is DSC by another name and says nothing more",
}
NOTE = (
  "Section 6 prints the ResNet50's figures once more in other columns (no tumour: precision .98, recall .95, F1 .93, accuracy .94;\n"
  "tumour: .87, .92, .88, .96): .98 is its recall in section 4.2. All printed values are for slices drawn at random, which leaks."
)
_OURS = {"dsc": "f1", "si": "f1"}


def table2_lines(per_class: dict[str, dict[str, Any]], model: str) -> list[str]:
  """The paper's Table 2 with our values of the test part beside the printed ones."""
  head = f"{'':10}{f'ours ({model})':>24}{'paper, CNN':>20}{'paper, ResNet50':>20}"
  lines = [
    head,
    f"{'':10}" + f"{'no tumour':>14}{'tumour':>10}" + f"{'no tumour':>12}{'tumour':>8}" * 2 + "   cannot hold together",
  ]
  for name, (cnn, resnet) in PRINTED.items():
    ours = [per_class[kind][_OURS.get(name, name)] for kind in ("no_tumor", "tumor")]
    shown = ["-" if value is None else str(value) if name == "support" else f"{value:.4f}" for value in ours]
    cells = f"{shown[0]:>14}{shown[1]:>10}" + "".join(f"{pair[0]:>12}{pair[1]:>8}" for pair in (cnn, resnet))
    lines.append(f"{name:10}{cells}   {CANNOT_HOLD.get(name, '')}".rstrip())
  return lines
