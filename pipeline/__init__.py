"""Neural style transfer over whole image data sets, on Ray."""
