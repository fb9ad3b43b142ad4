"""Guarding models of stable-audio-tools where they are; nothing of it is imported."""

from anechoic.stable_audio_tools.guard import guard

__all__ = ["guard"]
