"""What people drew: structure sets read, compared with our results, and counted."""
