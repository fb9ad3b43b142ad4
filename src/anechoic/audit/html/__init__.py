"""From the document of an audit to one HTML page: no torch, no diffusers, no network."""
