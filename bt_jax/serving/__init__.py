"""A page in the browser that shows what a network makes of a scan; the extra `serve` brings what it needs."""
