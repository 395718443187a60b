"""How fast a transformer of the public peer's default sizes writes: ours, the peer, and what the machine allows.

    python benchmarks/generation_speed.py --peer OTHER_ENVIRONMENT/bin/python --json speed.json
    python benchmarks/generation_speed.py --table speed.json       the README's table of such a file
    python benchmarks/generation_speed.py --quick                  one round, short prompts, no peer

512 wide, 12 + 2 layers, 16,384 codes, six a face; random weights and prompts, plain sampling, no end. `--peer` names
the Python of an environment that has `meshgpt_pytorch`; without it its rows are left out. Each side has a process of
its own that waits while the other works, and they take turns for `--rounds`; figures are the least of all rounds,
ratios are of those. Reading the prompt is not counted.

"ours" has a code in two digits, as is the default; "ours, one softmax" the head of the peer. The bound is measured in
the same rounds: bytes that a face has to read (weights, and the keys and values of faces before it) over the rate of a
matrix-vector product on weights far larger than the cache; for a batch the operations over the rate of products of the
sizes that matter, and keys and values over that of memory. Of weights that fit into the cache (the fine stack in few
bits) more can come in a second than that: a share may exceed 100 %.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WEIGHTS = ("float32", "bfloat16", "int8")
OURS = {"ours": 2, "ours, one softmax": 1}  # and in how many digits a code is said
PEERS = {
    "peer": {},
    "peer without extras": {
        "attn_kwargs": {"ff_glu": True, "attn_num_mem_kv": 4},
        "coarse_pre_gateloop_depth": 0,
        "fine_pre_gateloop_depth": 0,
    },
}
CODES, TOKENS, WIDTH = 16384, 6, 512
SHAPES = ((4096, 512), (512, 2048), (1024, 512), (512, 1024))  # outputs and inputs of the layers that matter


class Clock:
    """Notes the time at each call; `between` two calls, in CPU and wall seconds."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, float]] = []

    def __call__(self) -> None:
        self.moments.append((time.process_time(), time.perf_counter()))

    def between(self, first: int, last: int) -> list[float]:
        return [end - begin for begin, end in zip(self.moments[first], self.moments[last], strict=True)]


class OurSide:
    """Answers cases with our models, made when they are first asked for."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], Any] = {}

    def model(self, who: str, weights: str) -> Any:
        import torch

        from meshgpt import MeshAutoencoder, MeshTransformer
        from meshgpt.transformer.compressed import compressed

        if (who, weights) not in self.models:
            torch.manual_seed(0)
            autoencoder = MeshAutoencoder(codebook_size=CODES, decoder_dims_through_depth=(32,)).eval()
            sizes = {"dim": WIDTH, "max_seq_len": 7200, "code_digits": OURS[who]}
            plain = self.models.setdefault((who, "float32"), MeshTransformer(autoencoder, **sizes).eval())
            self.models[who, weights] = plain if weights == "float32" else compressed(plain, weights)
        return self.models[who, weights]

    def write(self, case: dict) -> list[float]:
        model, clock, last = self.model(case["who"], case["weights"]), Clock(), case["context"] + case["faces"] + 2
        options = {"max_faces": last, "min_faces": last, "seed": 0, "progress": lambda face, rows: clock()}
        model.generate_result(prompt=prompt_of(case), **options)
        return clock.between(1, 1 + case["faces"])

    def count(self, who: str) -> dict[str, int]:
        """Weights read for one face, and numbers of the keys and values of a face before it."""
        from torch import nn

        def linear(*modules: nn.Module) -> int:
            layers = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
            return sum(layer.weight.numel() for layer in layers)

        model = self.model(who, "float32")
        spec = model.config.coarse_stack
        kept = 2 * spec.heads * spec.dim_head * spec.layers.count("attention")
        return {
            "weights": linear(model.coarse, model.to_face) + TOKENS * linear(model.fine, model.head),
            "kept": kept,
        }


class PeerSide:
    """The same with the peer's."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}

    def model(self, who: str) -> Any:
        import warnings

        import torch

        warnings.filterwarnings("ignore")
        from meshgpt_pytorch import MeshAutoencoder, MeshTransformer  # type: ignore[import-not-found]

        if who not in self.models:
            torch.manual_seed(0)
            autoencoder = MeshAutoencoder(num_discrete_coors=128)
            self.models[who] = MeshTransformer(autoencoder, dim=WIDTH, max_seq_len=7200, **PEERS[who]).eval()
        return self.models[who]

    def write(self, case: dict) -> list[float]:
        model, clock = self.model(case["who"]), Clock()

        def without_end(logits: Any) -> Any:
            clock()
            logits[..., -1] = -1e9
            return logits

        length = (case["context"] + case["faces"] + 2) * TOKENS
        options = {"temperature": 1.0, "return_codes": True, "filter_logits_fn": without_end}
        model.generate(prompt=prompt_of(case), max_seq_len=length, **options)
        return clock.between(TOKENS, TOKENS * (1 + case["faces"]))


def prompt_of(case: dict) -> Any:
    import torch

    size = (case["batch"], case["context"] * TOKENS)
    return torch.randint(0, CODES, size, generator=torch.Generator().manual_seed(0))


class Machine:
    """What products of matrices cost here: bytes a second with one row, operations a second with many."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def measure(self, weights: str) -> dict[str, float]:
        return {"bytes": self.bandwidth(weights), "operations": self.rate(weights)}

    def bandwidth(self, weights: str) -> float:
        """Of a matrix-vector product over 256 MB of weights, eight times the usual cache."""
        import torch

        if "large " + weights not in self.made:
            width = {"float32": 4, "bfloat16": 2, "int8": 1}[weights]
            self.made["large " + weights] = made_weights((2**28 // 4096 // width, 4096), weights)
        matrix = self.made["large " + weights]
        x = made_weights((1, 4096), weights)
        return matrix.numel() * matrix.element_size() / least(lambda: product(x, matrix, torch))

    def rate(self, weights: str) -> float:
        """Of 32 rows with weights of the model's sizes, each of which was last read long ago."""
        import torch

        if weights not in self.made:
            self.made[weights] = [made_weights(shape, weights) for _ in range(12) for shape in SHAPES]
        matrices = self.made[weights]
        rows = {shape[1]: made_weights((32, shape[1]), weights) for shape in SHAPES}
        seconds = least(lambda: [product(rows[matrix.shape[1]], matrix, torch) for matrix in matrices])
        return 2 * 32 * sum(matrix.numel() for matrix in matrices) / seconds


def made_weights(shape: tuple[int, int], weights: str) -> Any:
    import torch

    if weights == "int8":
        return torch.randint(-127, 128, shape, dtype=torch.int8)
    return torch.randn(shape).to(getattr(torch, weights))


def product(x: Any, matrix: Any, torch: Any) -> Any:
    if matrix.dtype == torch.int8:
        return torch.ops.aten._int_mm(x, matrix.T)
    return torch.mv(matrix, x[0]) if len(x) == 1 and matrix.dtype == torch.float32 else x @ matrix.T


def least(work: Any, repetitions: int = 3) -> float:
    """CPU seconds."""
    seconds = []
    for _ in range(repetitions):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def serve(side: str) -> None:
    """Answers one case a line until there are no more."""
    import torch

    worker = OurSide() if side == "ours" else PeerSide()
    machine = Machine()
    for line in sys.stdin:
        case = json.loads(line)
        torch.set_num_threads(case.get("threads", 1))
        with torch.no_grad():
            if "machine" in case:
                answer: Any = machine.measure(case["machine"])
            elif "count" in case:
                answer = worker.count(case["count"]) if isinstance(worker, OurSide) else {}
            else:
                answer = worker.write(case)
        print("answer " + json.dumps(answer), flush=True)


class Side:
    """A process that answers cases."""

    def __init__(self, python: str, side: str):
        command = [python, __file__, "--serve", side]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, case: dict) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line[7:])
        raise SystemExit(f"the process that measures {case} ended with {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def cases_of(options: argparse.Namespace) -> list[dict]:
    """What is written by whom: single at each context, a batch at the first; then with all cores."""
    sizes = [(1, context) for context in options.contexts] + [(options.batch, options.contexts[0])]
    sizes = [size for size in dict.fromkeys(sizes) if size[0] in options.batches]
    cases = []
    for threads in dict.fromkeys((1, options.threads)):
        for batch, context in sizes if threads == 1 else [(b, c) for b, c in sizes if c == options.contexts[0]]:
            case = {"batch": batch, "context": context, "threads": threads, "faces": options.faces}
            case["faces"] = max(2, options.faces // 2) if batch > 1 else options.faces
            cases += [{"who": who, "weights": "float32", **case} for who in PEERS if options.peer]
            cases += [{"who": who, "weights": weights, **case} for who in OURS for weights in options.weights]
    return [case for case in cases if not options.only or case["who"] in options.only]


def measure(options: argparse.Namespace) -> dict:
    ours = Side(sys.executable, "ours")
    peer = Side(options.peer, "peer") if options.peer else None
    cases = cases_of(options)
    found: dict[int, tuple[float, float]] = {}
    machine: dict[str, dict[str, float]] = {}
    for number in range(options.rounds):
        for weights in options.weights:
            best = machine.setdefault(weights, {})
            for name, figure in ours.ask({"machine": weights}).items():
                best[name] = max(best.get(name, 0.0), figure)
        for index, case in enumerate(cases):
            side = peer if case["who"] in PEERS else ours
            assert side is not None
            cpu, wall = side.ask(case)
            before = found.get(index, (1e9, 1e9))
            found[index] = (min(before[0], cpu), min(before[1], wall))
            print(f"round {number + 1}: {case} {cpu:.3f} s", file=sys.stderr, flush=True)
    counts = {who: ours.ask({"count": who}) for who in OURS}
    for side in (ours, peer):
        if side is not None:
            side.close()
    rows = [row_of(case, found[index], counts, machine) for index, case in enumerate(cases)]
    for row in rows:
        other = [r for r in rows if r["who"] == "peer" and all(r[k] == row[k] for k in ("batch", "context", "threads"))]
        clock = "cpu_ms" if row["threads"] == 1 else "wall_ms"
        row["times_the_peer"] = round(other[0][clock] / row[clock], 2) if other else None
    return {"machine": machine, "counts": counts, "rounds": options.rounds, "rows": rows}


def row_of(case: dict, seconds: tuple[float, float], counts: dict, machine: dict) -> dict:
    """One line of the report: milliseconds for a face of each row of the batch, and what it could be."""
    cpu, wall = seconds
    row = {name: case[name] for name in ("who", "weights", "batch", "context", "threads")}
    clock = cpu if case["threads"] == 1 else wall
    row |= {"cpu_ms": round(1e3 * cpu / case["faces"], 2), "wall_ms": round(1e3 * wall / case["faces"], 2)}
    row["faces_per_second"] = round(case["batch"] * case["faces"] / clock, 1)
    if case["who"] in counts and case["threads"] == 1:
        bound = bound_of(case, counts[case["who"]], machine)
        row |= {"bound_ms": round(1e3 * bound, 2), "share": round(bound / (cpu / case["faces"]), 3)}
    return row


def bound_of(case: dict, count: dict, machine: dict) -> float:
    """Seconds for a face of each row. Keys and values are kept in float32."""
    able, size = machine[case["weights"]], {"float32": 4, "bfloat16": 2, "int8": 1}[case["weights"]]
    memory = machine.get("float32", able)["bytes"]
    keys_and_values = case["batch"] * case["context"] * count["kept"] * 4 / memory
    read = count["weights"] * size / able["bytes"]
    computed = 2 * case["batch"] * count["weights"] / able["operations"] if case["batch"] > 1 else 0.0
    return max(read, computed) + keys_and_values


def table(report: dict) -> str:
    """The lines of the README: a column for each size, and in it faces a second, times the peer, share of the bound."""
    columns = list(dict.fromkeys((row["threads"], row["batch"], row["context"]) for row in report["rows"]))
    cells = {(row["who"], row["weights"], *size_of(row)): cell_of(row) for row in report["rows"]}
    lines = ["| faces a second (times the peer; share of the bound) | " + " | ".join(map(title_of, columns)) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for who, weights in dict.fromkeys(key[:2] for key in cells):
        name = f"{who}, {weights}"
        lines.append(f"| {name} | " + " | ".join(cells.get((who, weights, *column), "") for column in columns) + " |")
    return "\n".join(lines)


def size_of(row: dict) -> tuple[int, int, int]:
    return row["threads"], row["batch"], row["context"]


def title_of(column: tuple[int, int, int]) -> str:
    threads, batch, context = column
    meshes = "one mesh" if batch == 1 else f"{batch} meshes"
    return f"{meshes}, {context} faces before" + (f", {threads} threads" if threads > 1 else "")


def cell_of(row: dict) -> str:
    more = [] if row["times_the_peer"] is None or row["who"] == "peer" else [f"{row['times_the_peer']:.1f}"]
    more += [f"{100 * row['share']:.0f} %"] if "share" in row else []
    rate = f"{row['faces_per_second']:.{0 if row['faces_per_second'] >= 100 else 1}f}"
    return f"{rate} ({'; '.join(more)})" if more else rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment that has meshgpt_pytorch")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--contexts", nargs="+", type=int, default=[200, 800], help="faces of the prompt")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32], help="which of 1 and --batch")
    parser.add_argument("--faces", type=int, default=8, help="that are timed, half as many in a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the rows in wall time")
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS])
    parser.add_argument("--json", type=Path, help="where to keep the report")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a report that was kept")
    parser.add_argument("--quick", action="store_true", help="one round, 8 faces of prompt, one thread")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    if options.quick:
        options.contexts, options.rounds, options.threads, options.faces = [8], 1, 1, 3
    if not options.peer:
        print("no --peer PYTHON was given: the peer's rows are left out", file=sys.stderr)
    report = measure(options)
    print(json.dumps(report, indent=1))
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
