"""anechoic-lab: a model that memorizes, the bench and the basin, beside `anechoic`."""

from __future__ import annotations

from anechoic.lazy import on_first_use

# diffusers loads a pipeline's own codec class from the top of its package, and asks the same
# package for the base class whose `from_pretrained` to call
__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "anechoic_lab.demo.codec": ("MelCodec",),
        "diffusers.models.modeling_utils": ("ModelMixin",),
    },
)
