"""Devices, hosts and memory: what is settled before JAX starts, and how one step runs on all of them."""
