"""A name as a network in stages: backbones, weight files, cuts."""
