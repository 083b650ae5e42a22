"""The version, in a module of its own so that submodules need not import `bt_jax` itself."""

__version__ = "0.2.0"
