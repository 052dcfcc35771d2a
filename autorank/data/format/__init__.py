"""What a prepared data set is, and what a raw log must provide."""
