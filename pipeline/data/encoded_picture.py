"""How is an encoded picture decoded, that may come from a stranger? After a look at its header.

A file of a hundred kilobytes can unfold into gigabytes. What it is and how large is read before any
pixel is, by Pillow; OpenCV then decodes.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "JPEG2000")
"""Kinds of pictures that are read, as Pillow names them."""
MAX_PIXELS = 100_000_000
"""Larger images are refused (a decompression bomb, or a mistake)."""

# bounded here, and refused by name
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def picture_size(encoded: bytes) -> tuple[int, int]:
    """(width, height) as the header states it; nothing is decoded.

    Raises ValueError for what is no picture of a kind in `FORMATS`.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            return picture.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # its parsers raise what they like at damaged headers
        raise ValueError(f"not an image ({', '.join(FORMATS)} are read)") from error


def decode_picture(encoded: bytes) -> np.ndarray:
    """The picture, upright: uint8 [H, W, 3] BGR.

    Raises ValueError, saying why, for what is no image or has more than `MAX_PIXELS` pixels.
    """
    width, height = picture_size(encoded)
    if width * height > MAX_PIXELS:
        raise ValueError(f"more than {MAX_PIXELS} pixels ({width} x {height})")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"not an image that OpenCV reads: {error.err}") from error
    if image is None:
        raise ValueError("not an image that OpenCV reads")
    return image
