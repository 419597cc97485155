"""Half as wide a ResNet-18 on a few thousand photos of your own, at two resolutions, on a CPU in minutes.

    imagesprint prepare PHOTOS ROOT --variants 160
    imagesprint train small --data ROOT --output RUN

Four micro-batches a step: it runs on 1, 2 and 4 ranks.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="small",
    model="resnet18",
    width=0.5,
    optimizer="muon",
    momentum=0.9,
    nesterov=True,
    rest_lr=3.3,
    weight_decay=5e-4,
    decay_norm_and_bias=False,
    label_smoothing=0.1,
    augment=("jitter 0.3", "cutmix 0.5"),
    precision="auto",
    eval_source="160",
    eval_resize=128,
    eval_image_size=112,
    eval_every=10,
    phases=(
        #     epochs     lr             method    batch micro px source min_area
        Phase((0, 2),    (0.003, 0.03), "linear", 128, 32, 64, "160", 0.25),
        Phase((2, 58),   (0.03, 0.012), "cosine", 128, 32, 64, "160", 0.25),
        Phase((58, 100), (0.012, 0.0),  "cosine", 128, 32, 96, "160", 0.25),
    ),
)
# fmt: on
