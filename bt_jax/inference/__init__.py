"""An external scan in, a mask out: files to scans, scans through networks, and masks back to files."""
