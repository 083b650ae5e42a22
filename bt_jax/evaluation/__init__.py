"""From probabilities to records, and from records to statistics."""

SENSITIVITY = 0.98  # default share of the validation slices with a tumour that a gate lets through
