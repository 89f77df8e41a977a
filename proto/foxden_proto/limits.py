"""Sizes and ranges that every room agrees on. Each is (smallest, largest), both allowed."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

PROMPT_CHARACTERS = (0, 10_000)
STEPS = (1, 150)
MODEL_CALLS = (1, 4 * STEPS[1])  # behind a checkpoint; some samplers call the model twice a step
GUIDANCE_SCALE = (0.0, 50.0)
SIDE_PIXELS = (16, 4096)
SIDE_MULTIPLE = 8
COUNT = (1, 1000)
DEADLINE_SECONDS = (1.0, 7 * 24 * 3600.0)
# 2^53 - 1 is the largest integer that JavaScript and JSON keep exact; image i uses seed + i.
SEED = (0, 2**53 - 1 - COUNT[1])
RANDOM_SEED_BELOW = 2**32  # what the field's tools draw from

NAME_CHARACTERS = (1, 100)
IDEMPOTENCY_KEY_CHARACTERS = (0, 128)
MEMBER_CHARACTERS = (1, 64)

REQUEST_BYTES = 256 * KIB  # one unary gRPC message
CHUNK_BYTES = 64 * KIB  # one message of an upload or download
UPLOAD_BYTES = 64 * MIB
PICTURE_BYTES = 64 * MIB
PREVIEW_BYTES = 64 * KIB
CHECKPOINT_BYTES = 32 * MIB  # of one image: six tensors of 4096 x 4096 pixels' latents in float32
INLINE_PICTURE_BYTES = 2 * MIB  # a picture that comes with the event that tells of it
FRAME_BYTES = 256 * KIB  # one link frame
CARDS_PER_AGENT = 16
MODELS_PER_AGENT = 500  # over all its cards: a hello is one frame
HELD_LEASES = 256
BATCH_IMAGES = 16  # images in one batch: more gain little and make the first wait for the last

LINK_PROTOCOL = 1

DEFAULT_GRPC_PORT = 7433
DEFAULT_HTTP_PORT = 7480
