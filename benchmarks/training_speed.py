"""What one training step costs at the public peer's default sizes: ours, the peer, and what the machine allows.

    python benchmarks/training_speed.py --peer OTHER_ENVIRONMENT/bin/python --json speed.json
    python benchmarks/training_speed.py --table speed.json         the README's table of such a file
    python benchmarks/training_speed.py --what loss                cross entropy over 16,384 codes, in chunks or not
    python benchmarks/training_speed.py --what heldout             bits of meshes held out, float32 and bfloat16
    python benchmarks/training_speed.py --device cuda              in wall time; the share is that of model operations
    python benchmarks/training_speed.py --quick                    one round of small steps, no peer

A step is forward, backward and AdamW (the same fused one on both sides): of the autoencoder over 1 x 800 and 4 x 800
faces, whose graph each side derives, and of a transformer 512 wide, 12 + 2 layers, 16,384 codes, over 2 x 384 codes.
bfloat16 is autocast over weights in float32. `--peer` names the Python of an environment that has `meshgpt_pytorch`.
Each model has a process of its own that waits while another works, and they take turns for `--rounds`; figures are the
least of all rounds, ratios are of those. Memory is the peak of the process beyond what its imports took, with weights,
gradients and the optimizer's state.

"ours" has a code in two digits, as is the default; "ours, one softmax" the head of the peer. The bound is the
operations of all products of matrices in the step (counted by torch, of attention those of the whole square) over the
rate of a product of 2,048 x 2,048 matrices in that dtype, measured in the same rounds; elementwise work, norms and the
optimizer are not in it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

from autoencoder_speed import grid_of_faces

OURS = {"ours": 2, "ours, one softmax": 1}  # and in how many digits a code is said
PEERS = ("peer",)
LOSSES = ("in chunks", "all at once")
CODES, TOKENS, WIDTH, SIDE = 16384, 6, 512, 2048
DTYPES = ("float32", "bfloat16")


def losses_of(case: dict) -> tuple[Any, Callable[[], Any]]:
    """(model, what computes its loss on one batch)."""
    import torch

    torch.manual_seed(0)
    if case["part"] == "loss":
        return wide_loss(case)
    if case["who"] in PEERS:
        from meshgpt_pytorch import MeshAutoencoder, MeshTransformer  # type: ignore[import-not-found]

        more: dict[str, Any] = {}
    else:
        from meshgpt import MeshAutoencoder, MeshTransformer
        from meshgpt.training.memory import keep_freed_memory

        if case["device"] == "cpu":
            keep_freed_memory()  # as our trainer does
        more = {"code_digits": OURS[case["who"]]}
    autoencoder = MeshAutoencoder(num_discrete_coors=128).to(case["device"])
    if case["part"] == "autoencoder":
        vertices, faces = (part.to(case["device"]) for part in grid_of_faces(case["batch"], case["faces"]))
        return autoencoder.train(), lambda: autoencoder(vertices=vertices, faces=faces)
    model = MeshTransformer(autoencoder, dim=WIDTH, max_seq_len=7200, **more).to(case["device"]).train()
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, CODES, (case["batch"], case["faces"] * TOKENS), generator=generator).to(case["device"])
    return model, lambda: model.forward_on_codes(codes)


def wide_loss(case: dict) -> tuple[Any, Callable[[], Any]]:
    """One softmax over all codes, and its cross entropy with and without all scores."""
    import torch
    from torch import nn

    from meshgpt.training.memory import keep_freed_memory
    from meshgpt.transformer.heads import CodeHead

    if case["device"] == "cpu":
        keep_freed_memory()
    model = CodeHead(CODES, WIDTH, 1).to(case["device"])
    rows = torch.randn(case["batch"] * case["faces"], WIDTH, device=case["device"], requires_grad=True)
    codes = torch.randint(0, CODES, (len(rows),), device=case["device"])
    ends = torch.ones_like(codes, dtype=torch.bool)
    if case["who"] == "in chunks":
        return model, lambda: model.nats(rows, codes, ends).mean()
    return model, lambda: nn.functional.cross_entropy(model.first(rows).float(), codes)


class Work:
    """One model and its optimizer, that take a step when asked."""

    def __init__(self, case: dict):
        import torch

        torch.set_num_threads(case["threads"])
        self.case, self.torch = case, torch
        warnings.filterwarnings("ignore")
        self.load()
        before = self.peak()
        self.model, self.loss = losses_of(case)
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
        for _ in range(2):  # the state of the optimizer is made in the first
            self.step()
        self.megabytes = round(self.peak() - before)

    def load(self) -> None:
        """What is imported counts for nobody."""
        if self.case["who"] in PEERS:
            import meshgpt_pytorch  # type: ignore[import-not-found]  # noqa: F401
        else:
            import torch_geometric.nn  # noqa: F401

            from meshgpt import MeshAutoencoder, MeshTransformer  # noqa: F401

    def step(self) -> None:
        dtype = getattr(self.torch, self.case["dtype"])
        with self.torch.autocast(self.case["device"], dtype, enabled=self.case["dtype"] != "float32"):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def timed(self) -> dict[str, float]:
        self.finish()
        cpu, wall = time.process_time(), time.perf_counter()
        self.step()
        self.finish()
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}

    def finish(self) -> None:
        if self.case["device"] == "cuda":
            self.torch.cuda.synchronize()

    def peak(self) -> float:
        """Megabytes."""
        if self.case["device"] == "cuda":
            return self.torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def operations(self) -> float:
        """Of all products in a step."""
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops()


class Product:
    """The product of matrices whose rate is the machine's."""

    def __init__(self, case: dict):
        import torch

        torch.set_num_threads(case["threads"])
        size, options = (SIDE, SIDE), {"device": case["device"], "dtype": getattr(torch, case["dtype"])}
        self.a, self.b, self.torch, self.case = torch.randn(size, **options), torch.randn(size, **options), torch, case
        self.timed()

    def timed(self) -> dict[str, float]:
        """Seconds of one product, the least of five."""
        found = []
        for _ in range(5):
            self.finish()
            cpu, wall = time.process_time(), time.perf_counter()
            self.torch.mm(self.a, self.b)
            self.finish()
            found.append((time.process_time() - cpu, time.perf_counter() - wall))
        return {"cpu": min(cpu for cpu, _ in found), "wall": min(wall for _, wall in found)}

    finish = Work.finish


def serve(case: dict) -> None:
    """Tells of its model, then takes a step for each line that comes."""
    work = Product(case) if case["who"] == "machine" else Work(case)
    about: dict[str, float] = {"megabytes": work.megabytes} if isinstance(work, Work) else {}
    if isinstance(work, Work) and case["who"] not in PEERS:
        about["operations"] = work.operations()
    print("answer " + json.dumps(about), flush=True)
    for _ in sys.stdin:
        print("answer " + json.dumps(work.timed()), flush=True)


class Side:
    """A process that has one model."""

    def __init__(self, python: str, case: dict):
        command = [python, __file__, "--serve", json.dumps(case)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.case, self.about, self.seconds = case, self._answer(), {"cpu": 1e9, "wall": 1e9}

    def turn(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = self._answer()
        self.seconds = {name: min(found[name], least) for name, least in self.seconds.items()}

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line[7:])
        raise SystemExit(f"the process that measures {self.case} ended with {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def groups_of(options: argparse.Namespace) -> list[list[dict]]:
    """Cases that take turns: those of one part, size and number of threads."""
    autoencoder = [("autoencoder", 1, 800), ("autoencoder", 4, 800)] if "autoencoder" in options.what else []
    transformer = [("transformer", 2, 64)] if "transformer" in options.what else []
    loss = [("loss", 1, 4096)] if "loss" in options.what else []
    sizes = autoencoder + transformer + loss
    sizes = sizes if not options.quick else [(part, 1, 16) for part, *_ in sizes]
    groups = []
    for threads in dict.fromkeys((1, options.threads) if options.device == "cpu" else (1,)):
        for part, batch, faces in sizes:
            case = {"part": part, "batch": batch, "faces": faces, "threads": threads, "device": options.device}
            who = list(PEERS) if options.peer and part != "loss" else []
            who += {"transformer": list(OURS), "loss": list(LOSSES)}.get(part, list(OURS)[:1])
            pairs = [
                (one, dtype) for one in who for dtype in options.dtypes if part != "autoencoder" or dtype == DTYPES[0]
            ]
            pairs = [(one, dtype) for one, dtype in pairs if not options.only or one in options.only]
            pairs += [("machine", dtype) for dtype in dict.fromkeys(dtype for _, dtype in pairs)]
            groups.append([{"who": one, "dtype": dtype, **case} for one, dtype in pairs])
    return groups


def measure(options: argparse.Namespace) -> dict:
    rows = []
    for group in groups_of(options):
        sides = [Side(options.peer if case["who"] in PEERS else sys.executable, case) for case in group]
        for _ in range(options.rounds):
            for side in sides:
                side.turn()
        for side in sides:
            side.close()
        found = rows_of(sides)
        rows += found
        for row in found:
            print(json.dumps(row), file=sys.stderr, flush=True)
    return {"device": options.device, "rounds": options.rounds, "rows": rows}


def rows_of(sides: list[Side]) -> list[dict]:
    """One line of the report for each model, beside the peer in the same numbers, and the peer in float32."""
    clock = "cpu" if sides[0].case["threads"] == 1 and sides[0].case["device"] == "cpu" else "wall"
    seconds = {(side.case["who"], side.case["dtype"]): side.seconds[clock] for side in sides}
    rows = []
    for side in sides:
        case, took = side.case, side.seconds[clock]
        if case["who"] == "machine":
            continue
        row = {**case, "cpu_seconds": round(side.seconds["cpu"], 4), "wall_seconds": round(side.seconds["wall"], 4)}
        row["megabytes"] = side.about["megabytes"]
        rate = 2 * SIDE**3 / seconds["machine", case["dtype"]]
        row["gflops"] = round(rate / 1e9, 1)
        if "operations" in side.about:
            bound = side.about["operations"] / rate
            row |= {"operations": side.about["operations"], "bound_seconds": round(bound, 4)}
            row["share"] = round(bound / took, 3)
        for name, other in (("times_the_peer", ("peer", case["dtype"])), ("times_its_float32", ("peer", "float32"))):
            row[name] = round(seconds[other] / took, 2) if other in seconds else None
        rows.append(row)
    return rows


def table(report: dict) -> str:
    """The lines of the README."""
    lines = [
        "| step | numbers | threads | s | times the peer (in float32) | memory, MB (peer) | share of the bound |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if row["who"] in PEERS:
            continue
        same = [r for r in report["rows"] if r["who"] == "peer" and all(r[k] == row[k] for k in SAME)]
        size = f"{row['part']}, {row['batch']} x {row['faces']} faces"
        size += "" if row["who"] == "ours" else f" ({row['who']})"
        took = row["cpu_seconds"] if row["threads"] == 1 and row["device"] == "cpu" else row["wall_seconds"]
        ratio = "" if row["times_its_float32"] is None else f"{row['times_the_peer']} ({row['times_its_float32']})"
        memory = f"{row['megabytes']}" + (f" ({same[0]['megabytes']})" if same else "")
        cells = (size, row["dtype"], row["threads"], f"{took:.3f}", ratio, memory, f"{100 * row['share']:.0f} %")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


SAME = ("part", "batch", "faces", "threads", "dtype")


def heldout(options: argparse.Namespace) -> dict:
    """Bits a face of meshes held out, after a short training in float32 and in bfloat16 from the same seeds."""
    import torch

    from meshgpt import MeshTransformer
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.tokenizers.coordinates import CoordinateTokenizer
    from meshgpt.training.mesh_trainers import MeshTransformerTrainer
    from meshgpt.training.presets import preset

    torch.set_num_threads(1)
    train, val = MeshDataset("cc0-lowpoly").filter(max_faces=100).train_and_val()
    found: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for dtype, name in (("float32", "no"), ("bfloat16", "bf16")):
                torch.manual_seed(seed)
                tokenizer, chosen = CoordinateTokenizer(), preset("transformer", "tiny")
                fields = {"num_train_steps": options.steps, "seed": seed, "mixed_precision": name, "warmup_steps": 20}
                fields |= {"val_every": options.steps, "checkpoint_every": options.steps, "progress": False}
                fields |= {"checkpoint_folder": f"{folder}/{seed}{dtype}", "val_num_batches": 1000}
                trainer = MeshTransformerTrainer(
                    MeshTransformer(tokenizer, **chosen.model_for(tokenizer)),
                    train,
                    val_dataset=val,
                    cache_folder=f"{folder}/tokens",
                    **{**chosen.training, "ema_decay": 0.98, **fields},
                )
                found[dtype].append(round(trainer()["val_bits_per_face"], 4))
                print(seed, dtype, found[dtype][-1], file=sys.stderr, flush=True)
    return {"steps": options.steps, "val_bits_per_face": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment that has meshgpt_pytorch")
    parts = ("autoencoder", "transformer", "loss", "heldout")
    parser.add_argument("--what", nargs="+", choices=parts, default=list(parts[:2]))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="of the transformer")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the rows in wall time; all cores if not given")
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS, *LOSSES])
    parser.add_argument("--steps", type=int, default=150, help="of the trainings of --what heldout")
    parser.add_argument("--seeds", type=int, default=2, help="of the trainings of --what heldout")
    parser.add_argument("--json", help="where to keep the report")
    parser.add_argument("--table", metavar="FILE", help="print the table of a report that was kept")
    parser.add_argument("--quick", action="store_true", help="one round, 16 faces, one thread unless asked for more")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(json.loads(options.serve))
    if options.table:
        with open(options.table, encoding="utf-8") as file:
            return print(table(json.load(file)))
    options.threads = options.threads or (1 if options.quick else os.cpu_count() or 1)
    options.rounds = 1 if options.quick else options.rounds
    if not options.peer:
        print("no --peer PYTHON was given: the peer's rows are left out", file=sys.stderr)
    report = measure(options)
    if "heldout" in options.what:
        report["heldout"] = heldout(options)
    print(json.dumps(report, indent=1))
    print(table(report))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
