"""Renders the document of an audit as one HTML page, without torch, diffusers or network."""
