"""A classifier as a file, and back."""
