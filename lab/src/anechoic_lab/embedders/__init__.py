"""Embedders of sound effects (aisfx), copies of images (SSCD) and their content (CLIP)."""
