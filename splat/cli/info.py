"""splat info"""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass
class Info:
    """Show versions, backends and, where one is missing, why."""

    def run(self) -> int:
        """Prints a line each."""
        import torch

        import splat
        from splat.core import ops

        print(f"splat      {splat.__version__}")
        print(f"torch      {torch.__version__}")
        print(f"python     {platform.python_version()} on {platform.machine()} {platform.system()}")
        print("reference  yes (pure torch: slow, float64-capable)")
        if ops.available:
            print(f"cpu        yes ({torch.ops.splat.cpu_isa()} kernels, {splat.get_num_threads()} threads)")
        else:
            print(f"cpu        no: {ops.load_error()}; install g++ and reinstall with --no-build-isolation")
        print("cuda       no: this build has no CUDA kernels")
        return 0
