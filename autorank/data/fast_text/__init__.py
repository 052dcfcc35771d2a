"""A compiled reader of short text cells."""
