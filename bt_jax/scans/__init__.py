"""External scans: found, read to what the networks want, and masks written like them."""
