"""What would a model's step take in another configuration? Tried on copies of its blocks."""
