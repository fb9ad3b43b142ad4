"""anechoic-lab: a demo model that memorizes, the bench and the basin, on top of `anechoic`."""

from __future__ import annotations

from anechoic.lazy import on_first_use

# diffusers looks up a pipeline's own codec class at the top level of its package, and in the same
# package the base class whose `from_pretrained` it calls
__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "anechoic_lab.demo.codec": ("MelCodec",),
        "diffusers.models.modeling_utils": ("ModelMixin",),
    },
)
