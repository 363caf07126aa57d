"""Activations as a trained network: net, strategy, head, augmentation, checkpoint."""
