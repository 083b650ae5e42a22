"""Scans in the files of strangers: found, read to what the networks want, and masks written like them."""
