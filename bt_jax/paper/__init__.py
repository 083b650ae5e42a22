"""What belongs to one publication: its printed values, its classical baselines, its tables, and genes."""
