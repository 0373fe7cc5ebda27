"""The text-to-image model that ships with the package: a Stable Diffusion folder that does what it is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from trifold.video.sprites.autoencoder import reconstruction_psnr
from trifold.video.sprites.classifier import AttributeClassifier, classifier_accuracy
from trifold.video.sprites.evaluation import held_out_scenes, text_to_image_accuracy
from trifold.video.sprites.words import VISIBLE
from trifold.video.text_to_image import TextToImage

pytest.importorskip("transformers")
FOLDER = Path(__file__).parents[2] / "video" / "pretrained"


@pytest.fixture(scope="module")
def base() -> TextToImage:
    return TextToImage.load("sprites")


@pytest.fixture(scope="module")
def classifier() -> AttributeClassifier:
    return AttributeClassifier.from_pretrained("sprites").eval()


class TestShipped:
    def test_size(self) -> None:
        assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 16e6

    def test_reconstruction(self, base: TextToImage) -> None:
        assert reconstruction_psnr(base.vae, 48) > 29.5

    def test_the_classifier_reads_rendered_pictures(self, classifier: AttributeClassifier) -> None:
        accuracy = classifier_accuracy(classifier, 100)
        assert min(accuracy[name] for name in VISIBLE) > 0.9

    def test_pictures_show_what_held_out_captions_say(self, base: TextToImage, classifier: AttributeClassifier) -> None:
        scores, drawn = text_to_image_accuracy(base, classifier, held_out_scenes(32), steps=12)
        assert drawn.shape == (32, 64, 64, 3)
        assert np.mean([scores[name] for name in VISIBLE]) > 0.85

    def test_diffusers_opens_the_folder(self, base: TextToImage) -> None:
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(FOLDER / "sprites", torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        prompt = "a large blue star at sunset"
        theirs = pipeline(
            prompt, latents=latents, num_inference_steps=4, guidance_scale=3.0, height=64, width=64, output_type="np"
        )
        # Picture i of ours starts from the noise of seed + i.
        ours = base.generate_images([prompt], steps=4, guidance_scale=3.0, seed=0)
        assert np.abs(np.asarray(ours[0]) / 255 - theirs.images[0]).max() < 0.02
