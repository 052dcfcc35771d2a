"""Exports the winning model, and scores raw rows with it."""
