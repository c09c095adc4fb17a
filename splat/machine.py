"""What this runs on, for reports: a figure means nothing without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, str | int | float]:
    """Processor, instruction set of the kernels, threads, memory (GiB), and the versions that matter."""
    import torch

    import splat
    from splat.core import ops

    memory = 0.0
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "threads": splat.get_num_threads(),
        "kernels": str(torch.ops.splat.cpu_isa()) if ops.available else "reference",
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "splat": splat.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
