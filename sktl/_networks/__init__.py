"""A name or module as a network in stages: weight files, tracing, cuts."""
