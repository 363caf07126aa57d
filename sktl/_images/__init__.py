"""Any `X` as images of 8-bit RGB: forms, layout, decoding, geometry."""
