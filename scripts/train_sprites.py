"""Makes the text-to-image model of the sprites world, in stages; each goes on where it was stopped.

    python scripts/train_sprites.py autoencoder
    python scripts/train_sprites.py decoder
    python scripts/train_sprites.py classifier
    python scripts/train_sprites.py text-to-image
    python scripts/train_sprites.py evaluate --json figures.json

On several processes: `accelerate launch scripts/train_sprites.py text-to-image`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from tqdm import tqdm
from trifold.common.train import process_state
from trifold.common.weights import write_json
from trifold.video.samplers import SamplerName
from trifold.video.sprites import autoencoder as vae
from trifold.video.sprites import classifier as reader
from trifold.video.sprites import text_to_image as t2i
from trifold.video.sprites.evaluation import evaluate_base, held_out_scenes
from trifold.video.sprites.words import caption
from trifold.video.text_to_image import TextToImage
from tyro.conf import OmitArgPrefixes

AUTOENCODER = vae.autoencoder_training()
DECODER = vae.decoder_training()
CLASSIFIER = reader.classifier_training()
TEXT_TO_IMAGE = t2i.text_to_image_training()


def autoencoder(config: OmitArgPrefixes[vae.AutoencoderTraining] = AUTOENCODER) -> None:
    """The autoencoder, to OUTPUT_DIR/model."""
    model, result = vae.train_autoencoder(_resuming(config))
    if not result.interrupted and process_state().is_main_process:
        model.save_pretrained(config.output_dir / "model")
        print(f"held-out PSNR: {vae.reconstruction_psnr(model):.2f} dB")


def decoder(config: OmitArgPrefixes[vae.AutoencoderTraining] = DECODER) -> None:
    """The autoencoder's decoder alone, a while longer, to OUTPUT_DIR/model."""
    autoencoder(config)


def classifier(config: OmitArgPrefixes[reader.ClassifierTraining] = CLASSIFIER) -> None:
    """The attribute classifier, to OUTPUT_DIR/model."""
    model, result = reader.train_classifier(_resuming(config))
    if not result.interrupted and process_state().is_main_process:
        model.save_pretrained(config.output_dir / "model", half=True)
        print("held-out accuracy:", reader.classifier_accuracy(model))


def text_to_image(config: OmitArgPrefixes[t2i.TextToImageTraining] = TEXT_TO_IMAGE) -> None:
    """The text model and the UNet; then the whole Stable Diffusion folder, to OUTPUT_DIR/model."""
    coder = AutoencoderKL.from_pretrained(config.autoencoder).eval()
    text_model, unet, result = t2i.train_text_to_image(_resuming(config), coder)
    if not result.interrupted and process_state().is_main_process:
        t2i.save_stable_diffusion_folder(config.output_dir / "model", coder, text_model, t2i.build_tokenizer(), unet)


def evaluate(
    model: str = "sprites",
    classifier: str = "sprites",
    *,
    num_captions: int = 500,
    steps: int = 20,
    guidance_scale: float = 3.0,
    sampler: SamplerName = "ddim",
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    sheet: Path | None = None,
) -> None:
    """The held-out figures of a base model: PSNR, and attribute accuracy of its pictures.

    Args:
        model: packaged name or Stable Diffusion folder.
        classifier: packaged name or folder of the attribute classifier.
        num_captions: captions whose combinations were kept out of training.
        steps: denoising steps.
        guidance_scale: classifier-free guidance.
        sampler: of the core or of diffusers.
        json_file: write the figures here.
        sheet: write the first 60 pictures here as one PNG.
    """
    figures, drawn = evaluate_base(
        TextToImage.load(model),
        reader.AttributeClassifier.from_pretrained(classifier).eval(),
        num_captions=num_captions,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        progress=lambda batches: tqdm(batches, desc="drawing", unit="batch"),
    )
    print(figures.table())
    if json_file:
        write_json(json_file, dataclasses.asdict(figures))
    if sheet:
        first = drawn[: min(60, len(drawn) // 10 * 10)]
        rows = [np.concatenate(list(row), axis=1) for row in first.reshape(-1, 10, *first.shape[1:])]
        Image.fromarray(np.concatenate(rows)).save(sheet)
        print("\n".join(caption(scene) for scene in held_out_scenes(len(first))))


def _resuming(config: Any) -> Any:
    return dataclasses.replace(config, resume_from_checkpoint=config.resume_from_checkpoint or "latest")


if __name__ == "__main__":
    STAGES = {
        "autoencoder": autoencoder,
        "decoder": decoder,
        "classifier": classifier,
        "text-to-image": text_to_image,
        "evaluate": evaluate,
    }
    tyro.extras.subcommand_cli_from_dict(STAGES, description=__doc__)
