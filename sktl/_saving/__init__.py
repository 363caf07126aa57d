"""A fitted network as a file, and back."""
