"""A page in the browser that shows what a network predicts for a scan; the extra `serve` installs what it needs."""
