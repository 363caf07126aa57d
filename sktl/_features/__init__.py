"""Images as activations of a frozen prefix, each computed once."""
