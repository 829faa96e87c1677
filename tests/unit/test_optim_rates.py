"""Learning-rate laws: their values at the ends and their bounds, for every law in the table."""

import argparse

import pytest

from hpcml.commands.settings import add_model_arguments
from hpcml.optim import rates

STEPS = 60


@pytest.mark.parametrize("law", rates.LAWS.values(), ids=rates.LAWS)
@pytest.mark.parametrize("warmup", [0, 1, 10, 60])
def test_a_law_warms_up_linearly_and_never_rises_again(law, warmup):
    values = [law(step, STEPS, warmup=warmup) for step in range(STEPS)]
    assert all(0 < value <= 1 for value in values)
    peak = max(warmup - 1, 0)
    if law is not rates.step_decay:
        assert values[:warmup] == [(step + 1) / warmup for step in range(warmup)]
        assert values[peak] == 1
        assert values[peak:] == sorted(values[peak:], reverse=True)
    assert law(STEPS + 5, STEPS, warmup=warmup) <= values[-1] + 1e-15, "past the end a law stays where it ended"


def test_constant_stays():
    assert {rates.constant(step, STEPS) for step in range(STEPS)} == {1.0}


def test_cosine_is_half_way_in_the_middle_and_ends_at_its_floor():
    assert rates.cosine(30, 60) == pytest.approx(0.5)
    assert rates.cosine(35, 60, warmup=10, floor=0.1) == pytest.approx(0.55)
    assert rates.cosine(60, 60, floor=0.1) == pytest.approx(0.1)
    assert rates.cosine(0, 0) == 1.0


def test_step_decay_has_three_plateaus():
    values = [rates.step_decay(step, STEPS) for step in range(STEPS)]
    assert values[:20] == [1.0] * 20
    assert values[20:40] == pytest.approx([0.1] * 20)
    assert values[40:] == pytest.approx([0.01] * 20)
    assert rates.step_decay(59, 60, factor=0.5, stages=4) == pytest.approx(0.125)


def test_linear_and_polynomial_end_at_their_floors():
    assert rates.linear(30, 60) == pytest.approx(0.5)
    assert rates.linear(35, 60, warmup=10, floor=0.2) == pytest.approx(0.6)
    assert rates.linear(60, 60, floor=0.2) == pytest.approx(0.2)
    assert rates.polynomial(30, 60) == pytest.approx(0.25)
    assert rates.polynomial(30, 60, floor=0.2, power=3) == pytest.approx(0.2 + 0.8 / 8)
    assert rates.linear(0, 0) == rates.polynomial(0, 0) == 1.0


def test_the_rate_grows_with_the_batch():
    assert rates.scaled(0.1, 8192) == pytest.approx(3.2)
    assert rates.scaled(0.1, 64, base=128) == pytest.approx(0.05)


@pytest.mark.parametrize("law", rates.LAWS)
def test_the_command_line_knows_the_law(law):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    assert parser.parse_args(["--rate", law]).rate == law
