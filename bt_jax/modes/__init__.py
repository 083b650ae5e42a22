"""What the command line offers, one file a mode, named like its flag."""
