"""splat info"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Info:
    """Show versions, backends and, where one is missing, why."""

    def run(self) -> int:
        """Prints a line each."""
        from splat import machine
        from splat.core import ops

        about = machine.describe()
        print(f"splat      {about['splat']}")
        print(f"torch      {about['torch']}")
        print(f"python     {about['python']} on {about['system']}")
        print(f"processor  {about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB")
        print("reference  yes (pure torch: slow, float64-capable)")
        if ops.available:
            print(f"cpu        yes ({about['kernels']} kernels, {about['threads']} threads)")
        else:
            print(f"cpu        no: {ops.load_error()}; install g++ and reinstall with --no-build-isolation")
        print("cuda       no: this build has no CUDA kernels")
        return 0
