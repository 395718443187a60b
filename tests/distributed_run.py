"""What each process of test_distributed.py runs: `python distributed_run.py FOLDER BATCH_SIZE TASK,TASK,...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import meshgpt  # noqa: E402, F401  switches shape checking on, where TYPECHECK says so
from tests.training_toys import ToyExamples, ToyObjective, toy_trainer  # noqa: E402


class FailingOnOne(ToyObjective):
    """The loss of the second process becomes NaN in its fourth batch."""

    def __init__(self):
        self.calls = 0

    def losses(self, model, batch):
        import os

        losses = super().losses(model, batch)
        self.calls += 1
        if self.calls == 4 and os.environ.get("RANK") == "1":
            losses.loss.data.fill_(float("nan"))
        return losses


def train(folder, batch_size):
    """13 examples in batches of 4: the last batch holds one, so that a second process has nothing of it."""
    trainer = toy_trainer(folder, count=13, batch_size=batch_size, grad_accum_every=2, val_every=5, log_every=1)
    trainer.val_examples = ToyExamples(5, seed=1)
    trainer()
    return trainer


def balanced(folder, batch_size):
    """Drawn by weights, in batches of limited size."""
    settings = {"max_faces_per_batch": 4 * batch_size, "weights": [1.0, 3.0, 0.5, 2.0] * 3 + [0.0]}
    trainer = toy_trainer(folder, count=13, batch_size=batch_size, log_every=1, **settings)
    trainer()
    return trainer


def autoencoder(folder, batch_size, count=7, num_train_steps=3, **options):
    """The real tokenizer, whose entropy is that of all processes together."""
    import torch

    from meshgpt.data.dataset import MeshDataset
    from meshgpt.tokenizers.autoencoder import MeshAutoencoder
    from meshgpt.training.mesh_trainers import MeshAutoencoderTrainer

    torch.manual_seed(0)
    sizes = {"encoder_dims_through_depth": (16, 16), "decoder_dims_through_depth": (16,), "dim_codebook": 32}
    augment = options.pop("augment", None)
    model = MeshAutoencoder(**sizes, **options, codebook_size=256, code_init="random", entropy_loss_weight=0.1)
    settings = {
        "num_train_steps": num_train_steps,
        "batch_size": batch_size,
        "learning_rate": 1e-3,
        "log_every": 1,
        "progress": False,
    }
    data = MeshDataset.bundled("tiny")[:count]
    trainer = MeshAutoencoderTrainer(model, data, augment=augment, **settings, checkpoint_folder=str(folder))
    trainer()
    return trainer


def stand_in(folder, batch_size):
    """The tokenizer on eight meshes in batches of six: of the last one, of two, a third process has nothing."""
    return autoencoder(folder, batch_size, count=8, num_train_steps=4)


def vanishing(folder, batch_size):
    """All meshes of the second process vanish on the grid."""
    import os

    def augment(mesh, rng):
        return type(mesh)(mesh.vertices * (1e-6 if os.environ.get("RANK") == "1" else 1.0), mesh.faces)

    return autoencoder(folder, batch_size, augment=augment, num_train_steps=2)


def vector_codes(folder, batch_size):
    """Codes whose vectors are means over the processes, and a batch of which the second has nothing."""
    return autoencoder(folder, batch_size, count=5, num_train_steps=4, use_residual_lfq=False)


def not_finite(folder, batch_size):
    from meshgpt.errors import NonFiniteLossError

    trainer = toy_trainer(folder, count=16, batch_size=batch_size, objective=FailingOnOne())  # all batches are full
    try:
        trainer()
    except NonFiniteLossError as error:
        (Path(folder) / f"error-{trainer.accelerator.process_index}.txt").write_text(str(error))


def full_disk(folder, batch_size):
    from meshgpt.errors import MeshGPTError

    trainer = toy_trainer(folder, count=13, batch_size=batch_size, num_train_steps=1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "checkpoints").write_text("in the way")
    try:
        trainer.save()
    except MeshGPTError as error:
        name = f"error-{trainer.accelerator.process_index}.txt"
        (Path(folder) / name).write_text(f"{type(error).__name__}: {error}")


def signalled(folder, batch_size):
    """One process alone is told to stop; both do, after the same step."""
    import os
    import signal

    trainer = toy_trainer(folder, count=13, batch_size=batch_size)
    original = trainer._after_step

    def after_step():
        original()
        if trainer.step == 3 and trainer.accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._after_step = after_step
    try:
        trainer()
    except SystemExit:
        (Path(folder) / f"stopped-{trainer.accelerator.process_index}.txt").write_text(str(trainer.step))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    for task in sys.argv[3].split(","):
        globals()[task](Path(sys.argv[1]) / task, int(sys.argv[2]))
