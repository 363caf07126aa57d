"""What is predicted: what `y` means, how it is split, learnt by a head and scored."""
