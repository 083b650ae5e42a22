"""From stored slices to the arrays that a network sees."""
