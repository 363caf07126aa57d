"""Any `X` as images of 8-bit RGB: forms, layout, value range, decoding, geometry."""
