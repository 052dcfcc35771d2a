"""Logs: preparing them once, opening them, and the sources that are known."""
