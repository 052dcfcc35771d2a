"""Prepares raw logs for training, and encodes rows for scoring."""
