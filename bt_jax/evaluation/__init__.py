"""From probabilities to rows, and from rows to every number."""
