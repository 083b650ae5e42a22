"""One run of a configuration: its components, data, folder, training and evaluation."""
