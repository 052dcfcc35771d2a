"""From settings to objects, and the bodies of the programs."""
