"""What several tests build on: sounds, clips, tiny models of each pipeline."""

from pathlib import Path

TESTS = Path(__file__).parents[1]  # for the path of processes that import from here
