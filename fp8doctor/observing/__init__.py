"""What happens inside of the user's own process: looking at a model, watching its steps, trying what would help."""
