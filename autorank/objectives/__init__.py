"""What a search minimises: training on data, a table of results, jobs on a cluster."""
