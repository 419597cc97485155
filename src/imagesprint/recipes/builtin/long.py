"""ResNet-50 in 168 epochs, `sprint` stretched and regularised: what to take where accuracy counts more than time.

    imagesprint train long --data ROOT --output RUN --processes 8

ROOT holds the variants 160 and 320. Target: at least 78.5 % top-1 by the 224 px centre crop of shorter side 232, in
what 73.8 epochs at 224 px compute. Nobody has run it yet: docs/sprint.md argues each line from what others published.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="long",
    model="resnet50",
    zero_init=True,
    shortcut="pool",
    momentum=0.9,
    weight_decay=3e-5,
    decay_norm_and_bias=False,
    label_smoothing=0.1,
    ema_decay=0.9931,  # halves in 100 steps
    augment=("mixup 0.2",),
    eval_source="320",
    eval_resize=232,
    eval_image_size=224,
    eval_every=4,
    phases=(
        #     epochs      lr          method    batch micro px  source min_area
        Phase((0, 8),     (0.1, 2.0), "linear", 2048, 256, 128, "160", 0.08),
        Phase((8, 88),    (2.0, 1.0), "linear", 2048, 256, 128, "160", 0.08),
        Phase((88, 128),  (1.0, 0.5), "linear", 2048, 256, 160, "320", 0.08),
        Phase((128, 168), (0.5, 0.0), "linear", 2048, 256, 176, "320", 0.08),
    ),
)
# fmt: on
