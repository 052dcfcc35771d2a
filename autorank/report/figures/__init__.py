"""The figures of the report: each module has one function that draws a run's figure, or returns None without data."""
