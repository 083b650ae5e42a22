"""Finds and reads external scans, and writes masks in the format of their files."""
