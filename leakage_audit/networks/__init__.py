"""A classifier read as layers, or as a function of the image alone."""
