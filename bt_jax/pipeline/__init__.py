"""From stored slices to the arrays a network sees."""
