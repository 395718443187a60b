"""From an autoencoder of vector sets to latents, to a prior over them, and back to surfaces."""

import numpy as np
import torch

from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.shapes.latent_diffusion import LatentDiffusion
from meshgpt.shapes.latents import LatentEncoder, encoded
from meshgpt.shapes.vecset import VectorSetAutoencoder
from meshgpt.training.latent_trainer import LatentDiffusionTrainer


def test_vector_sets_of_an_autoencoder_are_learned_and_become_fields_again(tmp_path):
    torch.manual_seed(0)
    data = PrimitiveDataset(4, surface=64, volume=8, near=8)
    autoencoder = VectorSetAutoencoder(
        dim=16, num_latents=6, dim_latent=4, depth=1, heads=2, dim_head=8, bottleneck="normalised"
    ).eval()
    assert isinstance(autoencoder, LatentEncoder)
    clouds = torch.from_numpy(np.stack([data[i].surface for i in range(4)]))
    latents = encoded(autoencoder, clouds.split(2))
    assert latents.shape == (4, 6, 4)
    names = [str(name) for name in data.column("category")]
    model = LatentDiffusion(num_latents=6, dim_latent=4, dim=16, depth=1, attn_heads=2, categories=tuple(set(names)))
    trainer = LatentDiffusionTrainer(
        model, latents, model.conditions_of(categories=names), num_train_steps=2, batch_size=4,
        checkpoint_folder=str(tmp_path), progress=False,
    )  # fmt: skip
    trainer()
    drawn = trainer.ema_model.generate(categories=names[0], num_samples=2, seed=0, num_steps=3)
    [first, _] = autoencoder.extract(drawn, coarse=8, resolution=16)
    assert first.verdict  # a surface, or the reason why there is none
    assert torch.allclose(model.restored(model.normalized(latents)), latents, atol=1e-4)
