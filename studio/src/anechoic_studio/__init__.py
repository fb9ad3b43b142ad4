"""anechoic studio: a page to generate under the guard, hear, check files and audit a model."""
