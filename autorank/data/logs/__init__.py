"""The logs that can be read, one module each."""
