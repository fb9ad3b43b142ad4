"""Measures where the attraction basin of memorized prompts ends: sweep, claims, page, figure."""
