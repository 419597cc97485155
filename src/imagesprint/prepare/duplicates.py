"""Images that are in train and in validation: they would make the accuracy look better than it is."""

from collections.abc import Mapping

from imagesprint.prepare.parts import NO_IMAGE, ShardResult
from imagesprint.prepare.plan import Plan


def find_duplicates(plan: Plan, results: Mapping[str, ShardResult]) -> dict[str, dict[int, str]]:
    """Return, for each train shard with images whose file is that of a validation image too, their positions in it.

    Each comes with the place of the validation file. `results` has every shard of the plan.
    """
    validation: dict[bytes, str] = {}
    for shard in plan.shards:
        if shard.split == "validation":
            for sample, content in zip(shard.samples, results[shard.name].iter_contents(), strict=True):
                validation.setdefault(content, sample.location)
    validation.pop(NO_IMAGE, None)
    found: dict[str, dict[int, str]] = {}
    for shard in plan.shards:
        if shard.split == "train":
            contents = enumerate(results[shard.name].iter_contents())
            duplicates = {position: validation[content] for position, content in contents if content in validation}
            if duplicates:
                found[shard.name] = duplicates
    return found
