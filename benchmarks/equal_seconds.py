"""Held-out bits a face after equal CPU seconds of training: our default, and a transformer of the public peer's kind.

    python benchmarks/equal_seconds.py --peer OTHER_ENVIRONMENT/bin/python
    python benchmarks/equal_seconds.py --seconds 20 --sides patches flat       # without the peer's environment

Each side says the same meshes of up to --max-faces faces, augmented in the same ways for training:

- patches: what `meshgpt train transformer` trains by default, codes of patches, with the sizes of --preset;
- flat: the same widths and depths over learned codes, six a face, each by one softmax over 16,384, as the peer has it;
- peer: `MeshTransformer` of `meshgpt_pytorch` over those codes, as wide and deep, the rest as it comes.

All learn with one loop: AdamW at the rate of the preset (of the peer at --peer-rates, one run each), which rises, stays
and falls with the CPU seconds of --seconds that are spent, batches of as many faces, and averaged weights. A side has
one thread and a process of its own; neither imports nor making codes nor validation counts. Bits are -log2 p of all
codes of a mesh and its end, summed over the validation meshes, over their faces. Prints one JSON object.
"""

import argparse
import copy
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIDES = ("patches", "flat", "peer")
CODES, QUANTIZERS, TOKENS = 16384, 2, 6
WARMUP, DECAY = 0.03, 0.3  # shares of the time in which the rate rises and falls


def written_codes(options: argparse.Namespace, folder: Path) -> None:
    """Codes of all variants of the training meshes and of the validation meshes, one file for each kind of codes."""
    import torch

    from meshgpt.data.augment import Augmentation
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.pipeline import load_tokenizer
    from meshgpt.tokenizers.autoencoder import MeshAutoencoder
    from meshgpt.training.examples import MeshExamples, MeshView
    from meshgpt.training.tokens import TokenCache, tokenized

    train, val = MeshDataset(options.data).filter(max_faces=options.max_faces).train_and_val()
    for name, tokenizer in {
        "patches": load_tokenizer("lowpoly"),
        "flat": MeshAutoencoder.from_pretrained("lowpoly"),
    }.items():
        seen, found = TokenCache(folder / name), {}
        for split, meshes, augment, variants in (
            ("train", train, Augmentation(), options.variants),
            ("val", val, None, 1),
        ):
            examples = MeshExamples(meshes, MeshView(tokenizer.num_discrete_coors, 3, augment), options.seed)
            tokens = tokenized(tokenizer, examples, seen, variants)
            entries = [tokens.entry(index, epoch) for epoch in range(variants) for index in range(len(tokens))]
            found[split] = [tokens.codes_of(entry).int() for entry in entries]
            found[f"{split}_faces"] = [tokens.faces_of(entry) for entry in entries]
        torch.save(found, folder / f"{name}.pt")
    (folder / "meshes.json").write_text(json.dumps({"train": len(train), "val": len(val)}))


def our_model(case: dict, kind: str, longest: int) -> Any:
    from meshgpt.pipeline import load_tokenizer
    from meshgpt.tokenizers.autoencoder import MeshAutoencoder
    from meshgpt.training.memory import keep_freed_memory
    from meshgpt.training.presets import preset
    from meshgpt.transformer.transformer import MeshTransformer

    keep_freed_memory()  # as our trainer does
    chosen = preset("transformer", case["preset"])
    if kind == "patches":
        tokenizer = load_tokenizer("lowpoly")
        return MeshTransformer(tokenizer, **{**chosen.model_for(tokenizer), "max_seq_len": longest})
    sizes = {name: value for name, value in chosen.model.items() if "dim" in name or "depth" in name or "heads" in name}
    sizes = {name: value for name, value in sizes.items() if not name.startswith("copy")}
    tokenizer = MeshAutoencoder.from_pretrained("lowpoly")
    return MeshTransformer(tokenizer, **sizes, max_seq_len=-(-longest // TOKENS) * TOKENS, code_digits=1)


def peer_model(case: dict, longest: int) -> Any:
    """The peer's transformer, whose autoencoder only says how many codes there are."""
    from meshgpt_pytorch import MeshAutoencoder, MeshTransformer  # type: ignore[import-not-found]

    small = {"encoder_dims_through_depth": (16, 16), "decoder_dims_through_depth": (16, 16), "dim_codebook": 16}
    autoencoder = MeshAutoencoder(codebook_size=CODES, num_quantizers=QUANTIZERS, **small)
    return MeshTransformer(autoencoder, max_seq_len=-(-longest // TOKENS) * TOKENS, **case["peer"])


class Side:
    """One model that learns for so many CPU seconds and is measured."""

    def __init__(self, case: dict):
        import torch

        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        torch.manual_seed(case["seed"])
        self.case, self.torch, self.kind = case, torch, case["side"]
        self.rows = torch.load(Path(case["folder"]) / f"{'patches' if self.kind == 'patches' else 'flat'}.pt")
        longest = max(map(len, self.rows["train"] + self.rows["val"]))
        self.model = peer_model(case, longest) if self.kind == "peer" else our_model(case, self.kind, longest)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.generator = torch.Generator().manual_seed(case["seed"])

    def nats(self, codes: Any) -> Any:
        """The mean over codes (b, n), padded -1, and ends."""
        return self.model.forward_on_codes(codes)

    def batches(self) -> Iterator[Any]:
        """Meshes in random order, as many at a time as have so many faces."""
        faces = self.rows["train_faces"]
        while True:
            batch, held = [], 0
            for index in self.torch.randperm(len(faces), generator=self.generator).tolist():
                if batch and held + faces[index] > self.case["faces"]:
                    yield self.padded(batch)
                    batch, held = [], 0
                batch, held = [*batch, self.rows["train"][index]], held + faces[index]

    def padded(self, rows: list) -> Any:
        return self.torch.nn.utils.rnn.pad_sequence(rows, True, -1).long()

    def learn(self) -> dict[str, float]:
        groups = [{"params": [w for w in self.weights if w.ndim >= 2], "weight_decay": self.case["weight_decay"]}]
        groups += [{"params": [w for w in self.weights if w.ndim < 2], "weight_decay": 0.0}]
        optimizer = self.torch.optim.AdamW(groups, betas=tuple(self.case["betas"]), fused=True)
        averaged, spent, steps, told = [w.detach().clone() for w in self.weights], 0.0, 0, 0
        self.model.train()
        for codes in self.batches():
            started = time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = self.case["rate"] * height(spent / self.case["seconds"])
            loss = self.nats(codes)
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps += 1
            decay = min(self.case["ema_decay"], steps / (9 + steps))
            self.torch._foreach_lerp_(averaged, [w.detach() for w in self.weights], 1 - decay)
            spent += time.process_time() - started
            if spent > told * 30:
                told += 1
                print(f"{self.kind}: {spent:.0f} s, {steps} steps, loss {loss.item():.3f}", file=sys.stderr, flush=True)
            if spent >= self.case["seconds"]:
                break
        for weight, mean in zip(self.weights, averaged, strict=True):
            weight.data.copy_(mean)
        return {"steps": steps, "seconds": round(spent, 1)}

    def bits_per_face(self) -> float:
        """Of the validation meshes, one at a time."""
        self.model.eval()
        with self.torch.no_grad():
            nats = sum(float(self.nats(self.padded([row]))) * (len(row) + 1) for row in self.rows["val"])
        return nats / math.log(2) / sum(self.rows["val_faces"])


def height(done: float) -> float:
    """Of the learning rate, when a share of the time is over."""
    return min(1.0, (done + 1e-3) / WARMUP, max(1 - done, 0.0) / DECAY)


def serve(case: dict) -> None:
    side = Side(case)
    untrained = copy.copy(side).bits_per_face()
    found = side.learn()
    count = sum(weight.numel() for weight in side.weights)
    report = {"side": case["side"], "rate": case["rate"], "weights": count, **found, "untrained": round(untrained, 2)}
    print("answer " + json.dumps({**report, "bits_per_face": round(side.bits_per_face(), 3)}), flush=True)


def answer_of(python: str, case: dict) -> dict[str, Any]:
    command = [python, __file__, "--serve", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return next(json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("answer "))


def cases_of(options: argparse.Namespace, folder: Path) -> list[dict]:
    from meshgpt.training.presets import preset

    chosen = preset("transformer", options.preset)
    model, training = chosen.model, chosen.training
    peer = {"dim": model["dim"][0], "attn_depth": model["attn_depth"], "attn_heads": model["attn_heads"]}
    peer |= {"attn_dim_head": model["attn_dim_head"]}
    shared = {"folder": str(folder), "seconds": options.seconds, "seed": options.seed, "preset": options.preset}
    shared |= {"faces": training["max_faces_per_batch"], "peer": peer}
    shared |= {name: training[name] for name in ("weight_decay", "betas", "ema_decay")}
    cases = []
    for side in options.sides:
        rates = options.peer_rates if side == "peer" else [training["learning_rate"]]
        cases += [{**shared, "side": side, "rate": rate} for rate in rates]
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment that has meshgpt_pytorch")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seconds", type=float, default=300, help="of CPU, for each run")
    parser.add_argument("--peer-rates", nargs="+", type=float, default=[1.5e-3, 5e-4])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--variants", type=int, default=12, help="of each training mesh")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(json.loads(options.serve))
    if "peer" in options.sides and not options.peer:
        print("no --peer PYTHON was given: the peer's runs are left out", file=sys.stderr)
        options.sides = [side for side in options.sides if side != "peer"]
    with tempfile.TemporaryDirectory() as folder:
        written_codes(options, Path(folder))
        runs = []
        for case in cases_of(options, Path(folder)):
            runs.append(answer_of(options.peer if case["side"] == "peer" else sys.executable, case))
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
        meshes = json.loads((Path(folder) / "meshes.json").read_text())
    least = {side: min((r["bits_per_face"] for r in runs if r["side"] == side), default=None) for side in SIDES}
    ratios = (
        {side: round(100 * (1 - least["patches"] / least[side]), 1) for side in SIDES[1:] if least[side]}
        if least["patches"]
        else {}
    )
    print(json.dumps({"meshes": meshes, "seconds": options.seconds, "runs": runs, "per cent less than": ratios}))


if __name__ == "__main__":
    main()
