"""A name as a network in stages: architectures, weight files, tracing, cuts."""
