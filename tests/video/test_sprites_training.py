"""How the text-to-image model of the sprites world is made: every stage, on a handful of pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from trifold.common.train import SampleNoise
from trifold.video.schedule import Schedule
from trifold.video.sprites import classifier as reader
from trifold.video.sprites import text_to_image as t2i
from trifold.video.sprites.autoencoder import (
    AutoencoderLoss,
    AutoencoderTraining,
    autoencoder_loss,
    build_autoencoder,
    train_autoencoder,
)
from trifold.video.sprites.classifier import AttributeClassifier, shares
from trifold.video.sprites.evaluation import held_out_scenes, text_to_image_accuracy
from trifold.video.sprites.pictures import SpritePictures, as_signal
from trifold.video.sprites.tokenizer import build_tokenizer
from trifold.video.sprites.words import VISIBLE
from trifold.video.text_to_image import TextToImage

pytest.importorskip("transformers")


class TestTraining:
    def test_autoencoder_loss_falls(self) -> None:
        torch.manual_seed(0)
        model = AutoencoderLoss(build_autoencoder(), kl_weight=1e-5)
        assert sum(p.numel() for p in model.parameters()) < 1e6
        batch = torch.utils.data.default_collate([SpritePictures(4)[i] for i in range(4)])
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        losses = []
        for _ in range(6):
            loss, metrics = autoencoder_loss(model, batch, SampleNoise(0, range(4)))
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[-1] < 0.8 * losses[0]
        assert metrics["psnr"] > 0

    def test_autoencoder_loss_weighs_the_sprite(self) -> None:
        pixels = as_signal(SpritePictures(1)[0]["pixels"])[None]
        mask, eps = torch.zeros(1, 1, 64, 64, dtype=torch.bool), torch.zeros(1, 4, 16, 16)
        torch.manual_seed(0)
        plain = AutoencoderLoss(build_autoencoder(), 0.0)
        heavy = AutoencoderLoss(plain.autoencoder, 0.0, sprite_weight=3.0)
        with torch.no_grad():
            assert heavy(pixels, mask, eps)[0] == plain(pixels, mask, eps)[0]  # no sprite, nothing to weigh
            mask[..., 20:30, 20:30] = True
            rebuilt = plain.autoencoder.decode(plain.autoencoder.encode(pixels).latent_dist.mean).sample
            error = (rebuilt - pixels).abs() + 2 * (rebuilt - pixels).square()
            near = error[..., 18:32, 18:32].sum()  # and two pixels around
            expected = (error.sum() + 2 * near) / (3 * (64 * 64 + 2 * 14 * 14))
            torch.testing.assert_close(heavy(pixels, mask, eps)[0], expected)

    def test_decoder_alone_leaves_latents_as_they_are(self, tmp_path: Path) -> None:
        before = build_autoencoder()
        before.register_to_config(scaling_factor=0.7)
        before.save_pretrained(tmp_path / "before")
        config = AutoencoderTraining(
            output_dir=tmp_path / "run",
            num_pictures=4,
            train_batch_size=2,
            max_train_steps=2,
            report_to="none",
            decoder_of=tmp_path / "before",
        )
        after, _ = train_autoencoder(config)
        pixels = as_signal(SpritePictures(1)[0]["pixels"])[None]
        with torch.no_grad():
            latents = [m.encode(pixels).latent_dist.mean for m in (before, after)]
            pictures = [m.decode(latents[0]).sample for m in (before, after)]
        torch.testing.assert_close(latents[1], latents[0])
        assert (pictures[1] - pictures[0]).abs().max() > 1e-4
        assert after.config["scaling_factor"] == 0.7

    def test_text_to_image_stage(self, tmp_path: Path) -> None:
        config = t2i.TextToImageTraining(
            output_dir=tmp_path, num_pictures=6, train_batch_size=4, max_train_steps=2, report_to="none", use_ema=True
        )
        torch.manual_seed(0)
        autoencoder = build_autoencoder().eval()
        text_model, unet, result = t2i.train_text_to_image(config, autoencoder)
        assert result.step == 2
        cache = (tmp_path / "latents.safetensors").stat().st_mtime_ns
        t2i.EncodedPictures.cached(tmp_path / "latents.safetensors", autoencoder, build_tokenizer(), 6)
        assert (tmp_path / "latents.safetensors").stat().st_mtime_ns == cache
        t2i.save_stable_diffusion_folder(tmp_path / "folder", autoencoder, text_model, build_tokenizer(), unet)
        again = TextToImage.load(tmp_path / "folder")
        ours = again.generate_images(["a red star"], steps=2, guidance_scale=3.0, seed=4)
        assert ours.shape == (1, 64, 64, 3)
        pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "folder", torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        theirs = pipeline(
            "a red star",
            latents=torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4)),
            num_inference_steps=2,
            guidance_scale=3.0,
            height=64,
            width=64,
            output_type="np",
        )
        assert np.abs(np.asarray(ours[0]) / 255 - theirs.images[0]).max() < 0.02
        scores, drawn = text_to_image_accuracy(
            again, AttributeClassifier(reader.ClassifierConfig()), held_out_scenes(3), steps=2, batch_size=2
        )
        assert drawn.shape == (3, 64, 64, 3)
        assert set(scores) == {*VISIBLE, "all"}
        assert all(0 <= share <= 1 for share in scores.values())

    def test_dropped_captions_are_empty(self) -> None:
        tokenizer = build_tokenizer()
        seen = []

        def net(x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            seen.append(tokens)
            return torch.zeros_like(x)

        empty = t2i.tokenise(tokenizer, [""])[0]
        tokens = t2i.tokenise(tokenizer, ["a red star"] * 200).short()
        mask = torch.zeros(200, 1, 2, 2, dtype=torch.bool)
        mask[..., 0, 0] = True
        batch = {"mean": torch.zeros(200, 4, 2, 2), "std": torch.ones(200, 4, 2, 2), "mask": mask, "tokens": tokens}
        schedule, shares = Schedule.from_config(t2i.SCHEDULER, "here"), {"drop_caption": 0.1, "middle_share": 0.5}
        loss = t2i.TextToImageLoss(schedule, empty, **shares, sprite_weight=0.0)
        value, metrics = loss(net, batch, SampleNoise(0, range(200)))  # type: ignore[arg-type]
        weighted, _ = t2i.TextToImageLoss(schedule, empty, **shares, sprite_weight=2.0)(
            net,  # type: ignore[arg-type]
            batch,
            SampleNoise(0, range(200)),
        )
        assert weighted.item() == pytest.approx(value.item() + 2 * metrics["sprite"].item(), rel=1e-5)
        # Half of the times are from 50 to 550, the others from 0 to 1000: 0.7 of all are below 500 and add about 1.
        assert metrics["sprite"].item() == pytest.approx(0.7, abs=0.12)
        dropped = (seen[0] == empty).all(1).float().mean()
        assert 0.04 < dropped < 0.18
        # Latents and noise are both standard normal, so v = alpha eps - sigma x0 has variance 1.
        assert value.item() == pytest.approx(1.0, abs=0.1)

    def test_classifier_learns(self, tmp_path: Path) -> None:
        config = reader.ClassifierTraining(
            output_dir=tmp_path,
            num_pictures=32,
            train_batch_size=16,
            max_train_steps=30,
            logging_steps=5,
            learning_rate=1e-3,
            report_to="none",
        )
        torch.manual_seed(0)
        start = AttributeClassifier(reader.ClassifierConfig())
        _, result = reader.train_classifier(config)
        assert result.metrics["loss"] < 0.9 * float(sum(np.log(h.out_features) for h in start.heads.values()))

    def test_shares_by_hand(self) -> None:
        found = [{"colour": "red", "shape": "star"}, {"colour": "red", "shape": "ring"}]
        wanted = [{"colour": "red", "shape": "star"}, {"colour": "blue", "shape": "ring"}]
        assert shares(found, wanted) == {"colour": 0.5, "shape": 1.0, "all": 0.5}
