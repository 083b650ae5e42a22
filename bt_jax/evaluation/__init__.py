"""From probabilities to rows, and from rows to every number."""

SENSITIVITY = 0.98  # share of the slices with a tumour that a gate lets through, of the validation part
