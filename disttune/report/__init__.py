"""What a user reads: progress on the console, result.json and trials.csv."""
