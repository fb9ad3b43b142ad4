"""A small Stable Diffusion that memorizes photographs: the guards on images.

`tiles` are the images and captions, `model` and `train` make the pipeline, `judge` and
`classifier` judge it, `task` is what a bench runs on.
"""
