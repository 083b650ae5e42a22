"""Devices, hosts and memory: the setup before JAX starts, and how one step runs on all devices."""
