"""ResNet-50 in 40 epochs of growing images, from large batches to small: hours become minutes on eight GPUs.

    imagesprint train minutes104 --data ROOT --output RUN

ROOT holds the variants 160 and 320. Cited for 8 × V100: 75.56 % top-1 and 93.11 % top-5 after epoch 36.2 in
6,273 s (104 minutes), best 75.88 / 93.24, 8,109 s in all; 14,200, 4,800, 4,130 and 2,650 images/s at 128, 224,
224 and 288 px. On the way: 50.6 % at epoch 20.2, 72.8 % at 30.7.

Evaluation takes the 288 px centre crop of the 320 set. The loss scale is used only where fp16 is chosen.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="minutes104",
    model="resnet50",
    zero_init=True,
    momentum=0.9,
    nesterov=True,
    weight_decay=2e-4,
    loss_scale=256.0,
    mean=(121.0, 115.0, 100.0),
    std=(70.0, 68.0, 71.0),
    eval_source="320",
    eval_resize=320,
    eval_image_size=288,
    phases=(
        #     epochs    lr              method        batch micro px  source min_area
        Phase((0, 6),   (1.0, 2.0),     "linear",      5920, 740, 128, "160", 0.08),
        Phase((6, 21),  (2.0, 0.45),    "linear",      5920, 740, 128, "160", 0.08),
        Phase((21, 32), (0.45, 0.02),   "exponential", 2048, 256, 224, "320", 0.08),
        Phase((32, 36), (0.02, 0.004),  "exponential", 1568, 196, 224, "320", 0.08),
        Phase((36, 40), (0.004, 0.002), "exponential", 1024, 128, 288, "320", 0.08),
    ),
)
# fmt: on
