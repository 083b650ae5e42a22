"""All configuration fields, and presets for the two tasks."""
