"""Methods that other papers propose, to compare with: they change the encoded prompt."""

from anechoic_lab.guidance.cads import CADS
from anechoic_lab.guidance.optimize import PromptOptimization
from anechoic_lab.guidance.perturb import EmbeddingNoise, PromptPerturbation

__all__ = ["CADS", "EmbeddingNoise", "PromptOptimization", "PromptPerturbation"]
