"""splat info"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Info:
    """Show versions, backends and, where one is missing, why; or what is in a file of Gaussians.

    Examples:

      splat info scene.spz

      splat info out/model.safetensors
    """

    file: tyro.conf.Positional[Path | None] = None
    """Scene or fitted picture, of any format that `splat convert` reads (checkpoints of other systems aside)."""

    def run(self) -> int:
        """Prints a line each."""
        if self.file is not None:
            from splat.image.export import is_image_model

            if is_image_model(self.file):
                from splat.image.describe import describe_image

                lines = describe_image(self.file)
            else:
                from splat.io.describe import describe

                lines = describe(self.file).lines()
            for line in lines:
                print(line)
            return 0
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
        for line in _cuda():
            print(line)
        return 0


def _cuda() -> Iterator[str]:
    """Whether the CUDA backend can run or why it cannot, what it was built for, and a line for each GPU."""
    import torch

    from splat.core import ops
    from splat.core.devices import cuda_problem, cuda_versions, version_text

    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    problems = [cuda_problem(gpu) for gpu in gpus or [torch.device("cuda", 0)]]
    why_not = problems[0] if all(problems) else None
    yield f"cuda       {f'no: {why_not}' if why_not else 'yes (not yet tested on a GPU)'}"
    if archs := ops.cuda_archs():
        built, driver = cuda_versions()
        knows = f"driver for CUDA {version_text(driver)}" if driver else "no NVIDIA driver"
        yield f"           kernels for sm_{', sm_'.join(archs)} and newer, of CUDA {version_text(built)}; {knows}"
    for gpu, problem in zip(gpus, problems[: len(gpus)], strict=True):
        major, minor = torch.cuda.get_device_capability(gpu)
        not_this = f" (no: {problem})" if problem not in (None, why_not) else ""
        yield f"           {gpu}: {torch.cuda.get_device_name(gpu)}, sm_{major}{minor}{not_this}"
