"""On what a figure was measured."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anechoic.processes import usable_cores

VERSIONS = ("anechoic", "diffusers", "torch", "transformers")


def versions() -> dict[str, str]:
    """The packages that a result depends on."""
    return {name: _version(name) for name in VERSIONS}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def machine(processes: str) -> dict[str, str]:
    """Processor, system and versions of whatever computes now, in so many processes."""
    return {
        "processor": processor(),
        "cores": f"{usable_cores()}",
        "processes": processes,
        **accelerator(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(),
    }


@cache
def processor() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):  # x86 and most ARM boards
                return value.strip()
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def accelerator() -> dict[str, str]:
    """The GPU, where torch is loaded and sees one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"accelerator": torch.cuda.get_device_name()}
