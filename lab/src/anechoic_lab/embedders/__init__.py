"""Embedders of images: copies of images (SSCD) and their content (CLIP)."""
