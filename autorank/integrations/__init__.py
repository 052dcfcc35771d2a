"""Bridges to other tools; each needs its extra."""
