"""Faces a second of the transformer presets, in training and generation, and what options and vocabularies cost.

    python benchmarks/transformer_speed.py                    all measurements
    python benchmarks/transformer_speed.py --what presets --presets tiny

CPU seconds on one thread; every measurement in a process of its own, so that its peak memory is its own. Random codes,
untrained weights: what is computed does not depend on them. Prints one JSON object.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

SMALL = {"dim": (192, 128), "attn_depth": 6, "attn_heads": 6, "attn_dim_head": 32}
SMALL |= {"fine_attn_heads": 4, "fine_attn_dim_head": 32, "ff_mult": 2.7, "max_seq_len": 9600}
OPTIONS = {
    "plain": {},
    "one context face": {"fine_context_faces": 1},
    "pointer": {"copy_dim": 48},
    "two recurrence layers": {"coarse_pre_gateloop_depth": 2},
    "distance bias": {"distance_bias": True},
    "face features": {"face_features": ("angles", "area", "normal", "corners")},
    "checkpointing": {"checkpointing": True},
    "reversible": {"reversible": True},
}


def clocked(work: Callable[[], object], repetitions: int = 3) -> float:
    """Least CPU seconds, after a first run that is not counted."""
    work()
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def model_of(vocab_size: int, tokens: int, config: dict):
    """A transformer for a tokenizer of which only the sizes matter."""
    import torch

    from meshgpt import MeshAutoencoder, MeshTransformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    quantizers = tokens // 3
    autoencoder = MeshAutoencoder(codebook_size=vocab_size, num_quantizers=quantizers, decoder_dims_through_depth=(32,))
    return MeshTransformer(autoencoder.eval(), **config)


def codes_of(model, batch: int, faces: int):
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.vocab_size, (batch, faces * model.tokens_per_face), generator=generator)


def training(batch: int, faces: int, vocab_size: int, config: dict) -> dict:
    """One step forward and back; `extra_megabytes` is the peak beyond the model and its codes."""
    model = model_of(vocab_size, 6, config)
    codes, before = codes_of(model, batch, faces), peak_megabytes()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model.losses(codes).loss.backward()

    seconds = clocked(step)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds_a_step": round(seconds, 4),
        "training_faces_per_second": round(batch * faces / seconds, 1),
        "extra_megabytes": round(peak_megabytes() - before),
    }


def generation(batch: int, context: int, faces: int, cache_kv: bool, config: dict) -> dict:
    """`faces` more faces for each row after `context` faces; reading those is not counted."""
    model = model_of(16384, 6, config).eval()
    prompt = codes_of(model, batch, context) if context else None

    def write(limit: int) -> Callable[[], object]:
        options = {"max_faces": limit, "min_faces": limit, "seed": 0, "cache_kv": cache_kv}
        rows = {} if context else {"batch_size": batch}
        return lambda: model.generate_result(prompt=prompt, **rows, **options)

    seconds = clocked(write(context + faces + 1), 2) - clocked(write(context + 1), 2)
    return {
        "generation_faces_per_second": round(batch * faces / seconds, 1),
        "ms_a_face": round(1e3 * seconds / faces, 2),
    }


def jobs_of(what: list[str], names: list[str]) -> list[dict]:
    jobs: list[dict] = []
    for name in names if "presets" in what else []:
        jobs.append({"kind": "training", "preset": name, "batch": 4, "faces": 100})
        for batch, context in ((1, 0), (1, 200), (32, 0)):
            jobs.append({"kind": "generation", "preset": name, "batch": batch, "context": context, "more": 16})
    for vocab_size in (128, 1024, 16384) if "vocabulary" in what else ():
        for digits in (2, 1):
            jobs.append({"kind": "vocabulary", "vocab_size": vocab_size, "code_digits": digits})
    for name in OPTIONS if "options" in what else ():
        jobs.append({"kind": "options", "option": name})
    return jobs


def run(job: dict) -> dict:
    from meshgpt.training.presets import preset

    if job["kind"] == "vocabulary":
        return training(4, 100, job["vocab_size"], {**SMALL, "code_digits": job["code_digits"]})
    if job["kind"] == "options":
        return training(2, 400, 16384, {**SMALL, **OPTIONS[job["option"]]})
    config = {**preset("transformer", job["preset"]).model, "max_seq_len": 9600}
    if job["kind"] == "training":
        return training(job["batch"], job["faces"], 16384, config)
    return generation(job["batch"], job["context"], job["more"], True, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="presets,vocabulary,options")
    parser.add_argument("--presets", default="tiny,small")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(json.loads(arguments.one))))
        return
    results = []
    for job in jobs_of(arguments.what.split(","), arguments.presets.split(",")):
        done = subprocess.run([sys.executable, __file__, "--one", json.dumps(job)], capture_output=True, text=True)
        last = (done.stdout.strip().splitlines() or ["{}"])[-1]
        found = json.loads(last) if done.returncode == 0 else {"error": done.stderr.strip()[-300:]}
        results.append({**job, **found})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"threads": 1, "results": results}, indent=1))


if __name__ == "__main__":
    main()
