"""Which network, and which of its layers."""
