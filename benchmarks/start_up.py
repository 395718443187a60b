"""What a user waits for before there is a mesh: imports, the help of the command, the first face of a bundled model.

    python benchmarks/start_up.py

CPU seconds of whole processes on one thread, Python's own start included, the least of --rounds, each after a first one
that is not counted; and how many times `import torch` that is. Prints one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

WRITE = """
import torch
torch.set_num_threads(1)
from meshgpt import MeshPipeline
model = MeshPipeline.from_pretrained("{model}").transformer
model.generate_result(seed=0, min_faces={faces}, max_faces={faces})
"""
WORK = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import meshgpt": ["-c", "import meshgpt"],
    "import meshgpt and torch": ["-c", "import meshgpt, torch"],
    "meshgpt --help": ["-m", "meshgpt", "--help"],
    "from meshgpt import MeshPipeline": ["-c", "from meshgpt import MeshPipeline"],
    "from meshgpt import MeshAutoencoder": ["-c", "from meshgpt import MeshAutoencoder"],
    "first face": ["-c", WRITE.format(model="{model}", faces=1)],
    "a mesh of 200 faces": ["-c", WRITE.format(model="{model}", faces=200)],
}


def seconds(command: list[str]) -> float:
    """CPU time of a process and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK))
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in options.only}
    for _ in range(options.rounds + 1):
        for name, figures in found.items():
            figures.append(seconds([part.replace("{model}", options.model) for part in WORK[name]]))
    report = {name: {"cpu_seconds": round(min(figures[1:]), 2)} for name, figures in found.items()}
    torch = report.get("import torch", {}).get("cpu_seconds", 0.0)
    for row in report.values() if torch else ():
        row["times_torch"] = round(row["cpu_seconds"] / torch, 2)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
