"""Every field of a configuration once, and presets of the two tasks."""
