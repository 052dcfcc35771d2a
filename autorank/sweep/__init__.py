"""Searching over anyone's jobs."""
