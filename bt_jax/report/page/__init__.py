"""The report of a run: one page, made from its tables and pictures alone."""
