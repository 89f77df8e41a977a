"""How many images a card says may ride through it in one batch. Pure.

Rules of thumb, until placement measures each model on each card; a batch that turns out to be too
big is drawn one by one (worker.py). In images of foxden_proto.batches.REFERENCE_PIXELS.
"""

from __future__ import annotations

from foxden_proto.batches import REFERENCE_PIXELS

_GIB = 1024**3

# Measured with the demo model on 2 cores, seconds per image at 1, 2, 4, 8 and 16 together:
# 64 px 0.84 0.53 0.35 0.18 0.12, 128 px 0.46 0.32 0.26 0.24, 256 px 0.98 1.03 1.03 0.88. So one
# image of 256 px fills two cores, and as many smaller ones as have its pixels are worth it.
_CORES_PER_IMAGE = 2
_RAM_PER_IMAGE = _GIB // 2  # float32, with guidance
_RAM_LEFT = 2 * _GIB  # for everything else that runs there

# float16, with guidance: a latent and its activations take 0.5 to 0.9 GiB at 512 x 512 with
# SD 1.5 and SDXL. Pictures are decoded one after the other: the reserve is for one decoder run.
_VRAM_PER_IMAGE = _GIB // 4
_VRAM_LEFT = 3 * _GIB // 2
# Four images of 1024 x 1024. Beyond it a card is busy anyway, and the first waits for the last.
_MOST_ON_CUDA = 4 * (1024 // 256) ** 2


def most_together(device: str, *, memory_free: int, cores: int, largest_model: int) -> int:
    """1 or more; 1 where nothing is known of the device.

    `memory_free` and `largest_model` are bytes: what the device has left (VRAM; RAM for "cpu"),
    0 where it does not tell, and the weights of the biggest model that the card may load.
    """
    room = memory_free - largest_model
    if device == "cpu":
        return max(1, min((room - _RAM_LEFT) // _RAM_PER_IMAGE, cores // _CORES_PER_IMAGE))
    if device.startswith("cuda"):
        return max(1, min((room - _VRAM_LEFT) // _VRAM_PER_IMAGE, _MOST_ON_CUDA))
    return 1


def after_out_of_memory(together: int, images: int, width: int, height: int) -> int:
    """What a card dares after a batch of so many images (2 or more) was too much for it: half.

    0 stands for one at a time, whatever the size (foxden_proto.batches.most_images).
    """
    return min(together // 2, images * width * height // (2 * REFERENCE_PIXELS))
