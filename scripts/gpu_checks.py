"""Everything that must be shown on a GPU, in one call of less than nine minutes.

    python scripts/gpu_checks.py --out results/            # from the repository's root; torch and numpy are enough
    python scripts/gpu_checks.py --no-bench --no-sanitizer # correctness alone, about a minute
    python scripts/gpu_checks.py --device cpu              # the script itself, where there is no GPU

1. Builds splat/_C.abi3.so for this GPU where it is missing or lacks the GPU's architecture (--build: always).
2. tests/device_checks.py: every kernel against the CPU backend, run-to-run bits, CUDA-graph capture and replay, no wait
   in a step. Each in a process that may die: what comes after it goes on in a new one.
3. compute-sanitizer memcheck and racecheck on the small checks.
4. scripts/bench_gpu.py.

Writes gpu_checks.json, logs and bench_gpu.json to --out. Exit status: 0 all well, 1 something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.resolve()
SMALL = ("odd_sizes", "tile_lists", "lists_of_a_given_length", "the_largest_weights", "losses", "training_steps")
SANITIZERS = ("memcheck", "racecheck")


def say(text: str) -> None:
    print(text, flush=True)


def show(result: dict[str, Any]) -> None:
    mark = "FAILED" if result["failure"] else "ok"
    say(f"  {mark:<7}{result['name']:<36}{result['seconds']:7.1f} s  {result['failure']}")


class Clock:
    """The time that is left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


def run_checks(names: list[str], device: str) -> None:
    """In the child process: one line of JSON for each check."""
    import torch

    sys.path.insert(0, str(ROOT))
    from tests.device_checks import CHECKS, Target

    for name in names:
        print(json.dumps({"begin": name}), flush=True)
        start, failure = time.perf_counter(), ""
        try:
            CHECKS[name](Target(torch.device(device)))
            if device != "cpu":
                torch.cuda.synchronize()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        print(json.dumps({"name": name, "failure": failure, "seconds": time.perf_counter() - start}), flush=True)
        if "CUDA error" in failure:
            raise SystemExit(3)  # the device's context is lost


def child(arguments: list[str], log: Path, timeout: float, before: tuple[str, ...] = ()) -> tuple[int, str]:
    """Runs a Python script; its exit status and standard output. 124: out of time."""
    command = [*before, sys.executable, *arguments]
    paths = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    with log.open("a") as errors:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": paths},
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=max(1.0, timeout),
                text=True,
            )
        except subprocess.TimeoutExpired as late:
            return 124, (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
    return done.returncode, done.stdout


def correctness(device: str, out: Path, clock: Clock) -> list[dict[str, Any]]:
    """The results of all checks, in processes of as many as live."""
    sys.path.insert(0, str(ROOT))
    from tests.device_checks import CHECKS, NEEDS_CUDA

    waiting = [n for n in CHECKS if device != "cpu" or n not in NEEDS_CUDA]
    results: list[dict[str, Any]] = []
    while waiting and clock.left() > 0:
        this = [str(Path(__file__)), "--device", device, "--run", *waiting]
        status, output = child(this, out / "checks.log", min(clock.left(), 240))
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        done = [line for line in lines if "name" in line]
        begun = [line["begin"] for line in lines if "begin" in line]
        died = begun[-1] if len(begun) > len(done) else None if begun or done else waiting[0]
        if died is not None:
            why = "out of time" if status == 124 else f"the process died with status {status}; see checks.log"
            done.append({"name": died, "failure": why, "seconds": 0.0})
        for line in done:
            show(line)
        results += done
        waiting = waiting[len(done) :]
    results += [{"name": n, "failure": "not run: out of time", "seconds": 0.0} for n in waiting]
    return results


def sanitize(device: str, out: Path, clock: Clock) -> list[dict[str, Any]]:
    """compute-sanitizer on the small checks."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or device == "cpu":
        say("  not run: " + ("no GPU" if device == "cpu" else "compute-sanitizer is not on the PATH"))
        return []
    results = []
    for kind in SANITIZERS:
        start = time.monotonic()
        before = (tool, "--tool", kind, "--error-exitcode", "9", "--log-file", str(out / f"{kind}.log"))
        this = [str(Path(__file__)), "--device", device, "--run", *SMALL]
        status, output = child(this, out / f"{kind}.out", min(clock.left(), 120), before)
        failed = [line for line in output.splitlines() if '"name"' in line and '"failure": ""' not in line]
        failure = "" if status == 0 and not failed else f"status {status} (9: errors found, see {kind}.log) {failed}"
        results.append({"name": kind, "failure": failure, "seconds": time.monotonic() - start})
        show(results[-1])
    return results


def build(device: str, always: bool) -> str:
    """Why the library cannot be used, or nothing; builds it for this GPU where it does not fit."""
    import torch

    archs = "none" if device == "cpu" else "{}{}".format(*torch.cuda.get_device_capability(device))
    probe = (
        f"import torch; from splat.core.devices import cuda_problem as p; print(p(torch.device({device!r})) or 'fits')"
    )
    for attempt in (0, 1):
        if attempt or always:
            say(f"building for sm_{archs} ...")
            environment = os.environ | {"SPLAT_CUDA_ARCHS": archs}
            command = [sys.executable, "setup.py", "build_ext", "--inplace"]
            if subprocess.run(command, cwd=ROOT, env=environment).returncode:
                return "the build failed"
        found = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
        problem = found.stdout.strip() or found.stderr.strip()[-300:]
        if problem == "fits" or device == "cpu":
            return ""
        say(problem)
    return problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for the results")
    parser.add_argument("--device", default="cuda:0", help="cuda:0 (default), or cpu to try the script")
    parser.add_argument("--build", action="store_true", help="build the library, also where one fits")
    parser.add_argument("--no-sanitizer", action="store_true")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--seconds", type=float, default=530, help="time for everything")
    parser.add_argument("--bench", nargs=argparse.REMAINDER, default=[], help="what follows goes to bench_gpu.py")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.run:
        run_checks(a.run, a.device)
        return 0
    clock = Clock(a.seconds)
    a.out.mkdir(parents=True, exist_ok=True)
    problem = build(a.device, a.build)
    if problem:
        say(f"gpu_checks: error: {problem}")
        return 1
    say("checks against the CPU backend")
    results = {"checks": correctness(a.device, a.out, clock)}
    if not a.no_sanitizer:
        say("compute-sanitizer")
        results["sanitizer"] = sanitize(a.device, a.out, clock)
    (a.out / "gpu_checks.json").write_text(json.dumps(results, indent=1))
    failures = [r["name"] for part in results.values() for r in part if r["failure"]]
    if not a.no_bench:
        say("benchmarks")
        script = [str(ROOT / "scripts" / "bench_gpu.py"), "--device", a.device, "--json", str(a.out / "bench_gpu.json")]
        budget = ["--budget", str(max(30, int(clock.left() - 15)))]
        status, output = child([*script, *budget, *a.bench], a.out / "bench.log", clock.left())
        say(output)
        failures += ["bench_gpu"] if status else []
    say(f"failed: {', '.join(failures)}" if failures else "all well")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
