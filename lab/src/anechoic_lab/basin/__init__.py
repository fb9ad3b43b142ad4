"""Where the attraction basin of memorized prompts ends: sweep, claims, page and figure."""
