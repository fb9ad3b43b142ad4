"""The commands that the laboratory adds to `anechoic`, one file each."""
