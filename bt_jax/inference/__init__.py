"""Prediction on external scans: reads files, runs networks, and writes masks."""
