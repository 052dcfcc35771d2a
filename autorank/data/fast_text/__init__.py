"""Compiled code for text cells of at most eight bytes."""
