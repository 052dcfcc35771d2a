"""Many architectures as one program."""
