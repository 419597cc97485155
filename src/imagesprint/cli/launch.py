"""`imagesprint launch slurm | sagemaker | kubernetes`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_set_flag, add_verb, positive, price, recipe_named
from imagesprint.console import Console, printable
from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.files import write_text
from imagesprint.recipes.library import builtin_names
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.recipes.validation import check_world_size
from imagesprint.storage.url import READ_ONLY, Url, parse_place

if TYPE_CHECKING:
    from imagesprint.launching.job import Forecast, Job
    from imagesprint.launching.target import Submitted, Target

SLURM_EXAMPLES = """\
  imagesprint launch slurm minutes104 --data /data/imagenet --output /runs/first --gpus 8
  imagesprint launch slurm minutes104 --data /data/imagenet --output /runs/first --gpus 8 --gpu h200 --submit
  imagesprint launch slurm small --data /data/flowers --output /runs/small --seeds 0,1,2 --save small.sh"""

SAGEMAKER_EXAMPLES = """\
  imagesprint launch sagemaker small --data s3://bucket/flowers --output s3://bucket/runs/first
  imagesprint launch sagemaker minutes104 --data s3://bucket/in --output s3://bucket/a --gpu h100 --gpus 8 --price 60
  imagesprint launch sagemaker small --data s3://bucket/in --output s3://bucket/a --gpu v100 --role ARN --image URI"""

KUBERNETES_EXAMPLES = """\
  imagesprint launch kubernetes minutes104 --data s3://bucket/in --output s3://bucket/a --nodes 2 --gpus 4
  imagesprint launch kubernetes small --data /data/in --output /data/run --claim data --image URI --submit
  imagesprint launch kubernetes small --data s3://bucket/in --output s3://bucket/a --kubeflow --save job.yaml"""

EXAMPLES = "\n".join((SLURM_EXAMPLES, SAGEMAKER_EXAMPLES, KUBERNETES_EXAMPLES))

DESCRIPTION = """\
Write the job that trains a recipe where the machines are, as a person would have written it, to read, change and keep.
--submit hands it to the target's own command (sbatch, aws, kubectl), and says how to follow, stop and resume it. On
each of --nodes run --gpus ranks, one a GPU; the same recipe gives the same steps on any number of them."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb and the targets it groups."""
    group = add_verb(subparsers, "launch", DESCRIPTION, EXAMPLES, None)
    inner = group.add_subparsers(title="targets", metavar="TARGET", parser_class=Parser)
    _add_target(inner, "slurm", "Write a script for sbatch.", SLURM_EXAMPLES)
    sagemaker = _add_target(inner, "sagemaker", "Write a request for a SageMaker training job.", SAGEMAKER_EXAMPLES)
    sagemaker.add_argument("--role", metavar="ARN", help="the role that the job has, which reads and writes the bucket")
    kubernetes = _add_target(inner, "kubernetes", "Write a Job for Kubernetes.", KUBERNETES_EXAMPLES)
    kubernetes.add_argument("--claim", metavar="NAME", help="the PersistentVolumeClaim on which paths lie")
    kubernetes.add_argument("--kubeflow", action="store_true", help="a TrainJob of Kubeflow Trainer instead of a Job")
    for parser in (sagemaker, kubernetes):
        parser.add_argument("--image", metavar="URI", help="the container image of imagesprint")


def _add_target(subparsers: "argparse._SubParsersAction[Parser]", name: str, description: str, examples: str) -> Parser:
    parser = add_verb(subparsers, name, f"{description} {DESCRIPTION}", examples, run)
    parser.set_defaults(target=name)
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="a built-in's name, a .toml file, or the URL of one")
    add("--data", type=parse_place, required=True, metavar="ROOT", help="what imagesprint prepare made")
    add("--output", type=parse_place, required=True, metavar="RUN", help="a run directory, or a URL")
    add("--nodes", type=positive, default=1, metavar="N", help="machines; default 1")
    add("--gpus", type=positive, metavar="N", help="GPUs of each, with a rank for each; default 1")
    add("--processes", type=positive, metavar="N", help="instead: ranks of each node, on its CPUs")
    add_set_flag(parser)
    add("--seeds", metavar="N,N,…", help="a run for each, as RUN-seed0; `report` compares them")
    add("--gpu", metavar="NAME", help="what to plan time and limit by: v100, a100, h100, h200")
    add("--price", type=price, metavar="AMOUNT", help="what an hour of all nodes costs, in any currency")
    add("--save", type=Path, metavar="FILE", help="write the job there instead of to the standard output")
    add("--submit", action="store_true", help="hand it to the target's command")
    return parser


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the job, and submit it where that is wanted."""
    job, target = _job(args), _target(args)
    for warning in target.check(job):
        console.warn(warning)
    if args.submit:
        target.check_ready(job)
    job = replace(job, forecast=_forecast(args, job, target, console))
    text = target.write(job)
    if args.save is not None:
        write_text(args.save, text)
        console.line(f"written     {args.save}")
    submitted = target.submit(job, text) if args.submit else None
    value = {
        "target": args.target,
        "text": text,
        "requests": target.requests(job),
        "outputs": [str(each.output) for each in job.runs],
        "submitted": submitted,
    }
    if submitted is not None:
        show(args, value, _told(submitted))
    elif args.json or args.save is None:
        show(args, value, text.rstrip("\n"))
    return 0


def _told(submitted: "Submitted") -> str:
    """What was submitted, and the commands for what may be wanted next, a line each."""
    rows = [(name, line) for name, lines in vars(submitted).items() for line in lines]
    return "\n".join(f"{name:<12}{printable(line)}" for name, line in rows)


def _target(args: argparse.Namespace) -> "Target":
    if args.target == "slurm":
        from imagesprint.launching.slurm import Slurm

        return Slurm()
    if args.target == "sagemaker":
        from imagesprint.launching.sagemaker import SageMaker

        return SageMaker(args.image, args.role, args.gpu)
    from imagesprint.launching.kubernetes import Kubernetes

    return Kubernetes(args.image, args.claim, args.kubeflow)


def _job(args: argparse.Namespace) -> "Job":
    """What is asked for, checked as far as that does not depend on the target."""
    from imagesprint.launching.job import Job, seeds_of, unknown

    if args.gpus is not None and args.processes is not None:
        raise UsageError("--gpus and --processes exclude each other", "--processes is for ranks on CPUs")
    if args.processes is not None and args.gpu is not None:
        raise UsageError("--gpu and --processes exclude each other", "--processes is for ranks on CPUs")
    if args.price is not None and args.gpu is None:
        raise UsageError("--price alone gives no cost: the time is not known", "name the GPUs, too: --gpu h200")
    if isinstance(args.output, Url) and args.output.scheme in READ_ONLY:
        raise UsageError(f"--output {args.output}: nothing is written over HTTP", "name a store, as s3://bucket/run")
    seeds = seeds_of(args.seeds) if args.seeds is not None else ()
    if seeds and any(text.partition("=")[0].strip() == "seed" for text in args.set):
        raise UsageError("--seeds and --set seed exclude each other", "leave one of them out")
    recipe = apply_overrides(recipe_named(args.recipe), args.set)
    for seed in seeds:
        apply_overrides(recipe, [f"seed={seed}"])
    ranks = args.gpus or args.processes or 1
    check_world_size(recipe, args.nodes * ranks)
    builtin_or_url = args.recipe in builtin_names() or "://" in args.recipe
    return Job(
        recipe=recipe,
        source=args.recipe if builtin_or_url else str(Path(args.recipe).absolute()),
        sets=tuple(args.set),
        data=args.data,
        output=args.output,
        nodes=args.nodes,
        ranks=ranks,
        on_gpus=args.processes is None,
        seeds=seeds,
        forecast=unknown("as nobody has planned it"),
    )


def _forecast(args: argparse.Namespace, job: "Job", target: "Target", console: Console) -> "Forecast":
    """What is known of the job's time and disk. Raises ImagesprintError where it is submitted without ROOT."""
    from imagesprint.launching.forecast import foresee
    from imagesprint.records.dataset import open_root  # numpy: not for --help

    root = None
    if target.is_in_sight(job.data):
        try:
            root = open_root(job.data)
        except ImagesprintError as error:
            if args.submit:
                raise
            console.warn(f"--data cannot be read from here: {error.what}")
    return foresee(job, root, args.gpu, args.price)
