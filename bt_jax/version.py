"""The version, apart from `bt_jax` itself, which nothing below it imports."""

__version__ = "0.2.0"
