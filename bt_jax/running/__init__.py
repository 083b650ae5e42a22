"""A run of one configuration: its parts, data, folder, training, and what becomes of its predictions."""
