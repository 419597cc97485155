"""A ResNet-18-D of half the width on a few thousand photos of your own, from nothing, on a CPU in minutes.

    imagesprint prepare PHOTOS ROOT --variants 160
    imagesprint train small --data ROOT --output RUN

It computes what `small-2026-11` does (in FLOP, Muon's included); `imagesprint recipes diff small-2026-11 small` names
every change, README.md, Results, what they came to. Where pretrained weights will do, `finetune` is better and quicker.
Four micro-batches a step: it runs on 1, 2 and 4 ranks.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="small",
    model="resnet18",
    width=0.5,  # four times as many images for the same computation
    stem="deep",
    shortcut="pool",
    optimizer="muon",
    momentum=0.9,
    nesterov=True,
    rest_lr=3.3,  # of what Muon does not take, SGD's: 0.1 where its own is 0.03
    weight_decay=5e-4,
    decay_norm_and_bias=False,
    label_smoothing=0.1,
    augment=("jitter 0.3", "cutmix 0.5"),
    precision="auto",
    eval_source="160",
    eval_resize=144,
    eval_image_size=128,
    eval_every=7,
    phases=(
        #     epochs    lr             method    batch micro px source min_area
        Phase((0, 2),   (0.003, 0.03), "linear", 128, 32, 64, "160", 0.25),
        Phase((2, 60),  (0.03, 0.012), "cosine", 128, 32, 64, "160", 0.25),
        Phase((60, 98), (0.012, 0.0),  "cosine", 128, 32, 96, "160", 0.25),
    ),
)
# fmt: on
