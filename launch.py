"""Trains, evaluates and uses networks for brain tumours in MRI: `python launch.py --help`, or `bt-jax --help`."""

from bt_jax.cli import main

if __name__ == "__main__":
  main()
