"""Methods that other papers propose, to compare with."""

from anechoic_lab.guidance.attenuation import AttentionAttenuation
from anechoic_lab.guidance.cads import CADS
from anechoic_lab.guidance.clamp import StepClamp, StepStatistics, measure_steps
from anechoic_lab.guidance.initial_noise import InitialNoise
from anechoic_lab.guidance.kernel_gradient import KernelGradient
from anechoic_lab.guidance.latents import LatentBank
from anechoic_lab.guidance.optimize import PromptOptimization
from anechoic_lab.guidance.perturb import EmbeddingNoise, PromptPerturbation
from anechoic_lab.guidance.safe_denoiser import SafeDenoiser

__all__ = [
    "CADS",
    "AttentionAttenuation",
    "EmbeddingNoise",
    "InitialNoise",
    "KernelGradient",
    "LatentBank",
    "PromptOptimization",
    "PromptPerturbation",
    "SafeDenoiser",
    "StepClamp",
    "StepStatistics",
    "measure_steps",
]
