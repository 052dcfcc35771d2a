"""What every level uses: array types, metrics, compiled programs, what a job returned."""
