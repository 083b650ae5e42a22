"""The report of a run: one page, made only from its tables and images."""
