"""Material for one publication: its printed values, its classical baselines, and tests of shape against genes."""
