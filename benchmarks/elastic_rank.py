"""`imagesprint` as `benchmarks/elastic.py` starts it: it notes every micro-batch that is trained on.

    ELASTIC_NOTES=FOLDER torchrun … benchmarks/elastic_rank.py train …

While there is a file FOLDER/slowly each step takes longer, so that nodes can come and go meanwhile.
"""

import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from imagesprint.cli.main import main
from imagesprint.loading.batch import Batch
from imagesprint.training import training
from imagesprint.training.prefetch import CopyTimes, DeviceBatches

NOTES = Path(os.environ["ELASTIC_NOTES"])
SLOWLY = NOTES / "slowly"
PAUSE_SECONDS = 1.0


def on_device(batches: Iterator[Batch], _: torch.device) -> DeviceBatches:
    return DeviceBatches(noted(batches), CopyTimes())


def noted(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield `batches`, and append for each a row [step, index in it, hash of the sample ids, hash of the pixels]."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    step, turn = -1, 0
    with (NOTES / f"{os.getpid()}.jsonl").open("w", buffering=1) as file:
        for batch in batches:
            if batch.step != step and SLOWLY.exists():
                time.sleep(PAUSE_SECONDS)
            step, turn = batch.step, turn + 1 if batch.step == step else 0
            hashes = (zlib.crc32(tensor.numpy().tobytes()) for tensor in (batch.sample_ids, batch.images))
            file.write(json.dumps([step, turn * size + rank, *hashes]) + "\n")
            yield batch


if __name__ == "__main__":
    training.on_device = on_device
    sys.exit(main())
