"""The table of pipelines, one file each: how it calls its network and encodes its prompts.

The order of the two halves, what stands in the unconditional one and how a caption is encoded
differ between pipelines, and a wrong guess runs without an error. So: an explicit table, and a
contract that every row is held to by tests.
"""

from anechoic.diffusers.adapters import (
    ace_step,
    audioldm2,
    longcat,
    stable_audio,
    stable_audio_3,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
)
from anechoic.diffusers.adapters.adapter import Adapter, CallRecorder, Halves, SoundSpec, Text

ADAPTERS: dict[str, Adapter] = {
    "StableAudioPipeline": stable_audio.ADAPTER,
    "StableAudio3Pipeline": stable_audio_3.ADAPTER,
    "AudioLDM2Pipeline": audioldm2.ADAPTER,
    "AceStepPipeline": ace_step.ADAPTER,
    "LongCatAudioDiTPipeline": longcat.ADAPTER,
    "StableDiffusionPipeline": stable_diffusion.ADAPTER,
    "StableDiffusionXLPipeline": stable_diffusion_xl.ADAPTER,
    "StableDiffusion3Pipeline": stable_diffusion_3.ADAPTER,
}

__all__ = ["ADAPTERS", "Adapter", "CallRecorder", "Halves", "SoundSpec", "Text"]
