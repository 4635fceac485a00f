#!/usr/bin/env bash
# Pillow 13.0.0, Image.resize(size, filter, box=BOX), numpy 2.4.
#
# Behaviour: with a filter wider than one pixel (BILINEAR, BICUBIC, LANCZOS), `resize(size, filter, box=box)` reads pixels
# outside the box: at the box's border the filter takes in the neighbours beyond it. So it differs from
# `crop(box).resize(size, filter)` in the outermost rows and columns, by up to 20 grey levels on noise, and by one level
# or nothing inside. A box of the whole image agrees, and so does the NEAREST filter.
# Why it surprises: the box is called the source region, and both forms read like the same crop-and-resize. A random
# resized crop written with `box=` to save a copy leaks a border from outside the crop, and trains on other pixels than
# the same crop written with `crop`.
# What vitbench does: it uses the box for the centre of an image, where it equals resizing the whole image and cropping
# then, and for random crops of streamed images, whose outermost pixels therefore differ from torchvision's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv -q "$folder/venv"
uv pip install -q --python "$folder/venv/bin/python" pillow==13.0.0 numpy==2.4.0
cat >"$folder/run.py" <<'PY'
import sys

import numpy as np
import PIL
from PIL import Image

pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
image, box = Image.fromarray(pixels), (10, 10, 30, 30)
print("Pillow", PIL.__version__)
seen = {}
for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
    resample = Image.Resampling[name]
    boxed = np.asarray(image.resize((10, 10), resample, box=box)).astype(int)
    cropped = np.asarray(image.crop(box).resize((10, 10), resample)).astype(int)
    apart = np.abs(boxed - cropped)
    seen[name] = (int(apart.max()), int(apart[2:-2, 2:-2].max()))
    print(f"{name}: most grey levels apart {seen[name][0]}, away from the border {seen[name][1]}")
whole = (0, 0, 40, 40)
equal = image.resize((10, 10), Image.Resampling.LANCZOS, box=whole) == image.resize((10, 10), Image.Resampling.LANCZOS)
print("the box of the whole image agrees:", equal)
agrees = seen.pop("NEAREST") == (0, 0) and equal
sys.exit(not (agrees and all(border > 0 for border, _ in seen.values()) and seen["BILINEAR"][1] == 0))
PY
"$folder/venv/bin/python" "$folder/run.py"
