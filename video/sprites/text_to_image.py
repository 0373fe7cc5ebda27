"""The text-to-image model of the sprites world: a small CLIP text model and a small Stable Diffusion UNet, together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm

from ...common.diffusion import Denoiser, DenoisingLoss
from ...common.diffusion.reduction import mean_per_sample
from ...common.train import SampleNoise, TrainConfig, TrainResult, process_state, train
from ...common.weights import read_tensors, replaced_folder, write_tensors
from ..schedule import Schedule
from .autoencoder import plain_attention, posterior_of
from .pictures import SpritePictures, as_signal
from .tokenizer import MAX_TOKENS, build_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

WIDTH = 128  # of the text states
VARIANTS = 4  # captions per picture
CACHE_FORMAT = 2  # of the file of encoded pictures: with masks
MIDDLE = (50, 550)  # times at which a sprite can be told from noise, but not yet its outline and texture
PLAIN = 500  # below this time there is no doubt where the sprite is


@dataclass(frozen=True)
class TextToImageTraining(TrainConfig):
    """One training run of the text model and the UNet."""

    autoencoder: Path = Path("runs/sprites/decoder/model")
    """Folder of the trained autoencoder."""
    num_pictures: int = 32_000
    """Pictures in the training set; all are encoded before the first step."""
    drop_caption: float = 0.1
    """Share of samples trained on the empty caption, for classifier-free guidance (Ho & Salimans 2022)."""
    middle_share: float = 0.6
    """Share of samples whose time is drawn from `MIDDLE`, where shapes form; the others are uniform over all."""
    sprite_weight: float = 1.0
    """Weight of the sprite's own mean error at times below `PLAIN`, beside that of the picture: it is a small part of
    it. Above, where the noise hides the sprite, such a weight would bias what the model takes for likely."""


def text_to_image_training() -> TextToImageTraining:
    """The shipped text-to-image model."""
    return TextToImageTraining(
        output_dir=Path("runs/sprites/text-to-image"),
        train_batch_size=32,
        max_train_steps=16_400,
        learning_rate=1e-3,
        lr_scheduler="cosine",
        lr_warmup_steps=200,
        lr_end=2e-5,
        adam_beta2=0.99,
        mixed_precision="auto",
        compile=False,
        use_ema=True,
        ema_decay=0.999,
    )


# The schedule of Stable Diffusion (Rombach et al. 2022) with the v target (Salimans & Ho 2022).
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def build_unet(latent_size: int = 16) -> UNet2DConditionModel:
    """5.4 million parameters in the block layout of Stable Diffusion."""
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96, 96, 96),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def build_text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model (Radford et al. 2021) of three layers, fit for the tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=WIDTH,
            bos_token_id=int(tokenizer.bos_token_id),  # type: ignore[arg-type]
            eos_token_id=int(tokenizer.eos_token_id),  # type: ignore[arg-type]
            pad_token_id=int(tokenizer.pad_token_id),  # type: ignore[arg-type]
        )
    )


class TextAndUNet(nn.Module):
    """Both nets as one: (noisy latents, timesteps, tokens) -> the UNet's output."""

    def __init__(self, text_model: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text_model = text_model
        self.unet = unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        plain_attention(unet)

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """latents [B, 4, h, w], t [B], tokens [B, L] -> [B, 4, h, w]."""
        states = self.text_model(input_ids=tokens).last_hidden_state
        return self.unet(latents, t, encoder_hidden_states=states).sample


class EncodedPictures:
    """Latent distributions and tokens of training pictures. Item i: mean, std float16 [4, h, w], mask bool [1, h, w],
    the latents that show some of the sprite, tokens [32].

    Item i and item i + num_pictures are one picture with two captions; there are `VARIANTS` of each.
    """

    def __init__(self, mean: Tensor, std: Tensor, mask: Tensor, tokens: Tensor):
        self.mean, self.std, self.mask, self.tokens = mean, std, mask, tokens

    @classmethod
    def encode(cls, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, num_pictures: int) -> EncodedPictures:
        """Render, encode and tokenise; a minute per five thousand pictures on one CPU core."""
        pictures, scale = SpritePictures(num_pictures), float(autoencoder.config["scaling_factor"])
        means, stds, masks, tokens = [], [], [], []
        device = next(autoencoder.parameters()).device
        for start in tqdm(range(0, num_pictures, 64), desc="encoding", unit_scale=64, unit="picture"):
            rows = range(start, min(start + 64, num_pictures))
            made = [pictures[i] for i in rows]
            pixels = as_signal(torch.stack([item["pixels"] for item in made])).to(device)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                posterior = posterior_of(autoencoder, pixels)
            means.append((scale * posterior.mean.float()).half().cpu().contiguous())
            stds.append((scale * posterior.std.float()).half().cpu().contiguous())
            factor = pixels.shape[-1] // means[-1].shape[-1]
            masks.append(F.max_pool2d(torch.stack([item["mask"] for item in made]).float(), factor).bool())
            captions = [pictures.caption(i, variant) for i in rows for variant in range(VARIANTS)]
            tokens.append(tokenise(tokenizer, captions).short().unflatten(0, (len(rows), VARIANTS)))
        return cls(torch.cat(means), torch.cat(stds), torch.cat(masks), torch.cat(tokens))

    @classmethod
    def cached(
        cls, file: Path, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, num_pictures: int
    ) -> EncodedPictures:
        """What `file` holds, if it was encoded by these very weights; else `encode`, and keep it there."""
        weights = sum(float(p.detach().double().abs().sum()) for p in autoencoder.parameters())
        made_by = torch.tensor([weights, num_pictures, CACHE_FORMAT], dtype=torch.float64)
        if file.is_file():
            found = read_tensors(file)
            if torch.equal(found.pop("made_by"), made_by):
                return cls(**found)
        made = cls.encode(autoencoder, tokenizer, num_pictures)
        write_tensors(file, {**vars(made), "made_by": made_by})
        return made

    def __len__(self) -> int:
        return len(self.mean) * VARIANTS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        variant, row = divmod(index, len(self.mean))
        found = {"mean": self.mean[row], "std": self.std[row], "mask": self.mask[row]}
        return found | {"tokens": self.tokens[row, variant]}


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """[n, 32] long, padded to the tokenizer's length."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids


class TextToImageLoss:
    """Mean squared error of v, at one time per picture. Call: (model, batch, noise) -> (loss, metrics)."""

    def __init__(
        self, schedule: Schedule, empty: Tensor, *, drop_caption: float, middle_share: float, sprite_weight: float
    ):
        self.schedule, self.empty = schedule, empty
        self.drop_caption, self.middle_share, self.sprite_weight = drop_caption, middle_share, sprite_weight

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], noise: SampleNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = batch["mean"].float()
        x0 = x0 + batch["std"].float() * noise.randn_like(x0)
        t = torch.where(
            noise.rand() < self.middle_share, noise.randint(*MIDDLE), noise.randint(0, self.schedule.path.num_steps)
        )
        eps = noise.randn_like(x0)
        dropped = (noise.rand() < self.drop_caption)[:, None]
        tokens = torch.where(dropped, self.empty.to(x0.device), batch["tokens"].long())
        denoiser = Denoiser(model, self.schedule.path, self.schedule.prediction)
        loss = DenoisingLoss()(denoiser, x0, eps, t, tokens)
        sprite = mean_per_sample(loss.error, batch["mask"])
        sprite = torch.where(t < PLAIN, sprite, 0.0).mean()
        return (loss.total + self.sprite_weight * sprite).float(), {"sprite": sprite.detach()}


def train_text_to_image(
    config: TextToImageTraining, autoencoder: AutoencoderKL
) -> tuple[CLIPTextModel, UNet2DConditionModel, TrainResult]:
    """Train both nets on latents of `autoencoder`; they come back with averaged weights."""
    tokenizer = build_tokenizer()
    torch.manual_seed(config.seed)
    text_model, unet = build_text_model(tokenizer), build_unet()
    empty = tokenise(tokenizer, [""])[0]
    with process_state().main_process_first():
        cache = config.output_dir / "latents.safetensors"
        data = EncodedPictures.cached(cache, autoencoder, tokenizer, config.num_pictures)
    loss = TextToImageLoss(
        Schedule.from_config(SCHEDULER, "SCHEDULER"),
        empty,
        drop_caption=config.drop_caption,
        middle_share=config.middle_share,
        sprite_weight=config.sprite_weight,
    )
    result = train(config, TextAndUNet(text_model, unet), loss, data)
    if result.ema is not None:
        result.ema.copy_to(result.model)
    return text_model.eval(), unet.eval(), result


def save_stable_diffusion_folder(
    folder: Path,
    autoencoder: AutoencoderKL,
    text_model: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Write an ordinary diffusers Stable Diffusion folder in half precision, whole or not at all."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_model,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULER),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    autoencoder.register_to_config(_name_or_path="")  # else the folder it was read from is written down
    with replaced_folder(folder) as temporary:
        pipeline.to(torch.float16).save_pretrained(temporary)  # type: ignore[union-attr]
