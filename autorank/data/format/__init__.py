"""The formats at both ends of preparation: what a raw log provides and what a prepared data set holds."""
