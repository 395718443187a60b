"""Memory and CPU time a face of long meshes, with and without a window: one figure a line.

    python benchmarks/long_meshes.py
    python benchmarks/long_meshes.py --faces 500 2000 8000 --window 250

A small untrained model (coarse width 64, 2 layers, coordinates as codes) on one thread, each case in a process of its
own, so that its peak memory is its own. "write": the last 50 faces of a mesh whose others are the prompt; what the
caches hold then, and CPU ms a face. "learn": one training step on a row of so many faces; CPU ms a face, and by how
much the process grew. A window has a row of all those faces here; learning from pieces costs what a piece costs.
"generate", where asked for by --what: all faces one by one, CPU ms a face, and by how much the process grew.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

MODEL = {"dim": 64, "attn_depth": 2, "attn_heads": 2, "attn_dim_head": 32, "fine_attn_depth": 1, "copy_dim": 16}
MODEL |= {"fine_attn_heads": 2, "fine_attn_dim_head": 32}
WRITTEN = 50


def made(faces: int, window: int, copy_dim: int):
    """A model, and random codes of one mesh."""
    import torch

    from meshgpt import CoordinateTokenizer, MeshTransformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = CoordinateTokenizer()
    size = {"max_seq_len": 9 * faces, "copy_dim": copy_dim}
    model = MeshTransformer(tokenizer, **{**MODEL, **size}, window=window)
    return model, torch.randint(0, model.vocab_size, (1, 9 * faces))


def writing(faces: int, window: int, copy_dim: int) -> dict[str, float]:
    """What a reader holds behind all but the last faces, and how long these take."""
    import torch
    from einops import rearrange

    from meshgpt.transformer.readers import CachedReader

    model, codes = made(faces, window, copy_dim)
    folded = rearrange(codes, "b (nf t) -> b nf t", t=model.tokens_per_face)
    with torch.no_grad():
        reader = CachedReader(model.eval(), folded[:, : faces - WRITTEN])
        begin = time.process_time()
        for face in folded[:, faces - WRITTEN :].split(1, dim=1):
            reader.start_face()
            for place in range(model.tokens_per_face):
                hidden = reader.read_code(None if place == 0 else face[:, 0, place - 1])
                said = face[:, 0].masked_fill(torch.arange(model.tokens_per_face) >= place, -1)
                reader.head(hidden, place, said).logits(hidden, torch.tensor([place == 0]))
            reader.finish_face(face)
        seconds = time.process_time() - begin
    known = () if reader.vertices is None else (reader.vertices.keys, reader.vertices.codes, reader.vertices.faces)
    held = sum(store.nbytes for store in (*reader.coarse.keys, *reader.coarse.values, *known))
    return {"cache_mb": held / 2**20, "ms_a_face": 1000 * seconds / WRITTEN}


def learning(faces: int, window: int, copy_dim: int) -> dict[str, float]:
    """One step, after a step on a short row that brings up what every step needs."""
    model, codes = made(faces, window, copy_dim)
    model.losses(codes[:, : 9 * 20]).loss.backward()
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    model.losses(codes).loss.backward()
    seconds, after = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"grown_mb": (after - before) / 1024, "ms_a_face": 1000 * seconds / faces}


def generating(faces: int, window: int, copy_dim: int) -> dict[str, float]:
    """All faces by `generate`, from the first one on, after a few that bring up what every call needs."""
    model, _ = made(faces, window, copy_dim)
    model.generate_result(max_faces=20, min_faces=20, seed=0)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    model.generate_result(max_faces=faces, min_faces=faces, seed=0)
    seconds, after = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"grown_mb": (after - before) / 1024, "ms_a_face": 1000 * seconds / faces}


WORK = {"write": writing, "learn": learning, "generate": generating}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--window", type=int, default=250, help="faces")
    parser.add_argument("--copy-dim", type=int, nargs="+", default=[0, 16], help="0: no pointer to vertices")
    parser.add_argument("--what", nargs="+", choices=WORK, default=["write", "learn"])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        what, *numbers = json.loads(arguments.case)
        print(json.dumps(WORK[what](*numbers)))
        return
    for what in arguments.what:
        for copy_dim in arguments.copy_dim if what != "learn" else arguments.copy_dim[:1]:
            for window in (0, arguments.window):
                for faces in arguments.faces:
                    case = [sys.executable, __file__, "--case", json.dumps([what, faces, window, copy_dim])]
                    done = subprocess.run(case, capture_output=True, text=True)
                    figures = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
                    shown = "  ".join(f"{name} {figure:8.2f}" for name, figure in figures.items())
                    pointer = f"pointer {copy_dim}" if copy_dim else "no pointer"
                    print(f"{what}  {pointer:10}  window {window or 'none':>5}  faces {faces:5}  {shown}", flush=True)


if __name__ == "__main__":
    main()
