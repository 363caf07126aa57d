"""What is predicted: what `y` means, how a head learns it, how it is scored."""
