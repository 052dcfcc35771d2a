"""The stages of a search, in their order."""
