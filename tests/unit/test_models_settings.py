"""Settings of a training: which optimizer and which learning rate they stand for."""

import subprocess
import sys

import numpy as np
import pytest

from hpcml.models.settings import Settings

DEFAULTS = dict(
    optimizer="adam",
    learning_rate=0.1,
    rate="constant",
    warmup_epochs=0,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    batch_size=128,
    epochs=10,
    random_state=0,
    dtype="float32",
    algorithm="auto",
)


@pytest.mark.parametrize(
    "changes, rule, expected",
    [
        (dict(optimizer="sgd", weight_decay=0.2), "SGD", dict(weight_decay=0.2, momentum=0.0)),
        (dict(optimizer="momentum", weight_decay=0.2), "SGD with momentum", dict(weight_decay=0.2, momentum=0.9)),
        (
            dict(optimizer="momentum", nesterov=True, momentum=0.5),
            "SGD with momentum",
            dict(nesterov=True, momentum=0.5),
        ),
        (dict(optimizer="sgd", nesterov=True), "SGD", dict(nesterov=False)),
        (dict(optimizer="adam", weight_decay=0.2), "AdamW", dict(weight_decay=0.2)),
    ],
)
def test_the_optimizer_is_the_one_that_was_asked_for(changes, rule, expected):
    made = Settings(**{**DEFAULTS, **changes}).make_optimizer({"w": np.ones(2)})
    assert made.rule.name == rule and made.lr == 0.1
    assert {name: made.hyperparameters[name] for name in expected} == expected


def test_the_learning_rate_follows_its_law_over_all_epochs():
    def rates(**changes):
        settings = Settings(**{**DEFAULTS, "epochs": 4, **changes})
        return [settings.rate_at(step, steps_per_epoch=3) for step in range(12)]

    assert rates() == [0.1] * 12
    assert rates(warmup_epochs=1)[:4] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1])
    assert rates(warmup_epochs=0.5)[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates(rate="step") == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 4)
    assert rates(rate="cosine") == pytest.approx([0.05 * (1 + np.cos(np.pi * step / 12)) for step in range(12)])


def test_losses_networks_and_settings_start_no_mpi():
    program = (
        "import sys; from hpcml.models import losses, network, settings; import hpcml.data.batches;"
        "sys.exit('mpi4py.MPI' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
