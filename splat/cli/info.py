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
        print(f"cuda       {_cuda()}")
        return 0


def _cuda() -> str:
    """Whether the CUDA backend can run, or why it cannot."""
    import torch

    from splat.core import ops

    archs = ops.cuda_archs()
    if not archs:
        return "no: built without CUDA kernels (nvcc was not found; reinstall with --no-build-isolation where it is)"
    built = f"kernels for sm_{', sm_'.join(archs)}"
    if torch.version.cuda is None:
        return f"no: this torch is a CPU build ({built} are there)"
    if not torch.cuda.is_available():
        return f"no: torch {torch.__version__} sees no GPU ({built}); look at nvidia-smi"
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return f"yes ({name}, sm_{major}{minor}, CUDA {torch.version.cuda}; {built}; not yet tested on a GPU)"
