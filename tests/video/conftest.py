"""The tiny text-to-image model that the tests of the pipeline share, made once per file."""

import pytest
from trifold.video.text_to_image import TextToImage

from .tiny import write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Its Stable Diffusion folder."""
    return write_tiny(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def base(folder):
    """The model, loaded on the CPU."""
    return TextToImage.load(folder, device="cpu")
