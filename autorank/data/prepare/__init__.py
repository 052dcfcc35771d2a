"""From a raw log to memory-mapped arrays."""
