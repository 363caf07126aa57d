"""Activations as a trained network: net, strategy, augmentation, checkpoint."""
