"""The settings of a training: arguments of the command line, and the estimator that they describe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hpcml.commands.numbers import count, fraction, gamma, layer_sizes, positive, positive_count, zero_or_more

if TYPE_CHECKING:
    from mpi4py import MPI

TREES = ("tree", "forest", "boosting")
#: Options that say what a model is like, and the models that have them.
OF_MODELS = {
    **dict.fromkeys(("trees", "leaves", "depth", "leaf_rows"), TREES),
    **dict.fromkeys(("kernel", "gamma", "degree"), ("kernel-svm",)),
}
OPTIMIZERS = ("sgd", "momentum", "adam")

# For standardised features. The squared hinge bends most, and bears the shortest steps of sgd.
LEARNING_RATES = {
    "mlp": {"sgd": 0.2, "momentum": 0.05, "adam": 0.005},
    "logistic": {"sgd": 0.1, "momentum": 0.02, "adam": 0.01},
    "svm": {"sgd": 0.02, "momentum": 0.002, "adam": 0.01},
}

#: What stands for the options of mini-batch training that are not given. A linear model for which one is given is
#: trained by mini-batches; otherwise it is solved for.
BY_MINI_BATCHES = {
    "optimizer": "adam",
    "epochs": 30,
    "batch_size": None,
    "learning_rate": None,
    "rate": "cosine",
    "warmup": 0.0,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "algorithm": "auto",
    "checkpoint_steps": None,
    "timeline": None,
}

# fmt: off


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    begin = parser.add_mutually_exclusive_group(required=True).add_argument
    begin("--data", metavar="DATA",
        help="digits, breast_cancer, iris, wine, or a file: CSV, TSV, LIBSVM, .npy, .npz, idx")
    begin("--resume", metavar="DIR",
        help="go on with the run of that directory, with its arguments, from its newest checkpoint, on any ranks")
    add = parser.add_argument
    add("--test-data", metavar="DATA", help="judge the model by this data set, not by a part of --data")
    add("--test", type=fraction, default=0.2, metavar="PART",
        help="the part of the rows to judge the model by, at the end (default: %(default)s)")
    add("--validation", type=fraction, default=0.1, metavar="PART",
        help="the part of the rows to watch the training by (default: %(default)s)")
    add("--scale", choices=("columns", "whole", "none"),
        help="standardise columns of numbers one by one, as a whole, or not (default: whole for images)")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model").add_argument
    add("--model", choices=("mlp", "logistic", "svm", "kernel-svm", *TREES), default="mlp",
        help="a multi-layer perceptron, logistic regression, a linear SVM, one with a kernel, a decision tree, a "
        "random forest or gradient boosting (default: %(default)s)")
    add("--hidden", type=layer_sizes, default=(256,), metavar="SIZES",
        help="mlp: units of the hidden layers, as in 128,64 (default: 256)")
    add("--C", type=positive, default=1.0,
        help="logistic, svm, kernel-svm: inverse strength of the penalty (default: %(default)s)")
    add("--kernel", choices=("rbf", "poly", "linear", "sigmoid"), help="kernel-svm (default: rbf)")
    add("--gamma", type=gamma, metavar="GAMMA",
        help="kernel-svm: a number, or scale: 1 / (features × variance), or auto: 1 / features (default: scale)")
    add("--degree", type=count, help="kernel-svm: of the kernel poly (default: 3)")
    add("--trees", type=positive_count, metavar="N", help="forest, boosting: how many (default: 100)")
    add("--leaves", type=positive_count, metavar="N", help="of a tree, at most (default: boosting 31, else no limit)")
    add("--depth", type=positive_count, metavar="N", help="of a tree, at most (default: no limit)")
    add("--leaf-rows", type=positive_count, metavar="N", help="of a leaf, at least (default: boosting 20, else 1)")
    group = parser.add_argument_group("the training",
        "logistic and svm are solved for, unless an option of mini-batches is given: from --optimizer to --algorithm, "
        "--checkpoint-steps or --timeline")
    add = group.add_argument
    add("--seed", type=count, default=0, help="of split, first weights and batches (default: %(default)s)")
    add("--optimizer", choices=OPTIMIZERS, help="(default: adam)")
    add("--epochs", type=positive_count, help="(default: 30)")
    add("--batch-size", type=positive_count, metavar="ROWS",
        help="rows per step, over all ranks (default: 8 to 512, growing with the rows)")
    add("--learning-rate", type=positive, metavar="RATE",
        help="(default: by model and optimizer; adam 0.005 for mlp, 0.01 for the others)")
    add("--rate", choices=("constant", "cosine", "linear", "polynomial", "step"),
        help="how the learning rate falls (default: cosine)")
    add("--warmup", type=zero_or_more, metavar="EPOCHS",
        help="how long the learning rate first rises (default: 0)")
    add("--momentum", type=fraction, help="of the optimizer of that name (default: 0.9)")
    add("--nesterov", action="store_true", default=None, help="Nesterov's momentum")
    add("--weight-decay", type=zero_or_more, metavar="DECAY", help="(default: 0)")
    add("--algorithm", help="of the all-reduce (default: auto)")
    add("--clip-norm", type=positive, metavar="NORM", help="mlp: scale gradients down to this norm")
    add("--reproducible", type=positive_count, metavar="V",
        help="the same parameters, bit for bit, on any number of ranks; mlp: up to V")
    add("--device", choices=("cpu", "cuda", "auto"), default="cpu",
        help="mlp: train on the processors, or on GPUs with CuPy; auto: on GPUs if every rank has one (default: cpu)")
    add("--shard", action="store_true", help="mlp: each rank keeps its part of the optimizer's state")
    add("--wire", choices=("float16", "bfloat16"), help="mlp: what gradients are sent as")
    add("--overlap", action=argparse.BooleanOptionalAction,
        help="mlp: send gradients while others are computed (default: between nodes)")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the output").add_argument
    add("--output", metavar="DIR", help="the run directory, a new one (default: runs/<date>-<model>-<data>)")
    add("--continue", dest="go_on", action="store_true",
        help="where DIR has a run of these arguments, go on with it from its newest checkpoint; else begin")
    add("--timeline", metavar="FILE",
        help="write what each rank did when, for Perfetto (ui.perfetto.dev) or chrome://tracing")
    add("--checkpoint-steps", type=positive_count, metavar="N",
        help="write where the training is, every N steps, to DIR/checkpoints: on a file system that all nodes share "
        "(default: when asked to end, by SIGUSR1 or SIGTERM)")
    add("--keep", type=positive_count, default=3, help="checkpoints that are kept (default: %(default)s)")
    add("--elastic", action=argparse.BooleanOptionalAction,
        help="go on with the ranks that are left when one dies (default: under Open MPI's mpiexec --with-ft ulfm)")
    add("--copy-steps", type=positive_count, default=10, metavar="N",
        help="then keep where the training is in memory, every N steps (default: %(default)s)")
    add("--progress", choices=("auto", "bar", "lines", "none"), default="auto",
        help="on stderr (default: a bar on a terminal, else a line per epoch)")


# fmt: on


def completed(args: argparse.Namespace) -> argparse.Namespace:
    """With ``exact``, whether the model is solved for, and what stands for options of mini-batches that are not
    given."""
    given = {name: getattr(args, name) for name in BY_MINI_BATCHES if getattr(args, name) is not None}
    exact = args.model in TREES or (args.model in ("logistic", "svm") and not given) or args.model == "kernel-svm"
    return argparse.Namespace(**{**vars(args), **({} if exact else {**BY_MINI_BATCHES, **given}), "exact": exact})


def build_model(args: argparse.Namespace, rows: int, comm: MPI.Comm, categorical: tuple[int, ...] = ()):
    """The estimator that the arguments, `completed`, ask for.

    rows: of the training data, over all ranks. categorical: the columns that hold codes, of trees.
    """
    from hpcml import collectives as hc
    from hpcml import models

    distribution = {name: getattr(args, name) for name in ("clip_norm", "reproducible", "shard", "wire", "overlap")}
    device = getattr(args, "device", "cpu")  # of a run that began before there was a choice
    if args.model != "mlp" and device == "cuda":
        raise hc.CollectiveError("--device cuda: only with --model mlp")
    if args.model != "mlp":
        allowed = ("reproducible",) if args.exact else ()
        wrong = [name for name, value in distribution.items() if value not in (None, False) and name not in allowed]
        if wrong:
            raise hc.CollectiveError(f"{', '.join(map(option, wrong))}: only with --model mlp")
    for name, owners in OF_MODELS.items():
        if getattr(args, name) is not None and args.model not in owners:
            raise hc.CollectiveError(f"{option(name)}: only with --model {', '.join(owners)}")
    if args.model in TREES:
        return build_trees(args, comm, categorical)
    if args.exact:
        refuse_mini_batches(args)
        reproducible = args.reproducible is not None
        if args.model == "kernel-svm":
            given = {
                name: getattr(args, name) for name in ("kernel", "gamma", "degree") if getattr(args, name) is not None
            }
            return models.SVC(args.C, **given, random_state=args.seed, reproducible=reproducible, comm=comm)
        if args.model == "logistic":
            return models.LogisticRegression(args.C, reproducible=reproducible, comm=comm)
        return models.LinearSVC(args.C, reproducible=reproducible, random_state=args.seed, comm=comm)
    settings = {
        "optimizer": args.optimizer,
        "learning_rate": args.learning_rate or LEARNING_RATES[args.model][args.optimizer],
        "rate": args.rate,
        "warmup_epochs": args.warmup,
        "momentum": args.momentum,
        "nesterov": args.nesterov,
        "weight_decay": args.weight_decay,
        "batch_size": args.batch_size or default_batch_size(rows),
        "epochs": args.epochs,
        "random_state": args.seed,
        "algorithm": args.algorithm,
        "comm": comm,
    }
    if args.model == "mlp":
        return models.MLPClassifier(args.hidden, **settings, **distribution, device=device)
    return models.SGDClassifier("log_loss" if args.model == "logistic" else "squared_hinge", C=args.C, **settings)


def build_trees(args: argparse.Namespace, comm: MPI.Comm, categorical: tuple[int, ...]):
    """The tree, forest or boosting that the arguments ask for. Left out is what is not given: the estimator knows."""
    from hpcml import collectives as hc
    from hpcml import models

    names = {"leaves": "max_leaf_nodes", "depth": "max_depth", "leaf_rows": "min_samples_leaf"}
    if args.model != "tree":
        names["trees"] = "n_estimators"
    elif args.trees is not None:
        raise hc.CollectiveError("--trees: only with --model forest, boosting; a tree is one")
    if args.model == "boosting":
        names["learning_rate"] = "learning_rate"
    refuse_mini_batches(args, apart=tuple(names))
    given = {name: getattr(args, option) for option, name in names.items() if getattr(args, option) is not None}
    estimator = {
        "tree": models.DecisionTreeClassifier,
        "forest": models.RandomForestClassifier,
        "boosting": models.GradientBoostingClassifier,
    }[args.model]
    return estimator(**given, categorical_features=categorical or None, random_state=args.seed, comm=comm)


def option(name: str) -> str:
    """``--leaf-rows`` for ``leaf_rows``."""
    return f"--{name.replace('_', '-')}"


def refuse_mini_batches(args: argparse.Namespace, apart: tuple[str, ...] = ()) -> None:
    """Raise CollectiveError for an option of mini-batch training that is given, ``apart`` from some."""
    from hpcml import collectives as hc

    for name in BY_MINI_BATCHES:
        if getattr(args, name) is not None and name not in apart:
            raise hc.CollectiveError(f"{option(name)}: not with --model {args.model}")


def default_batch_size(rows: int) -> int:
    """The power of two that gives an epoch at least 64 steps, within 8 and 512: a small set needs its steps,
    and a large one the throughput of larger batches."""
    return min(512, max(8, 1 << max(rows // 64, 1).bit_length() - 1))
