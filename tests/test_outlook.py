"""How many test utterances a verdict will take, told before anything was trained."""

import random

import pytest

from lora.errors import ScoringError
from lora.scoring.counts import Score, score_utterance, total
from lora.scoring.gate import judge
from lora.scoring.outlook import EXPECTED_GAIN, utterances_needed
from lora.scoring.rules import GateConfig
from lora.scoring.significance import compare
from lora.units import Seconds

RATE = 0.05
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def heard(count: int, rate: float, seed: int, left: float = 1.0) -> Score:
    """Utterances of ten words, each misheard with a chance of `rate`, of which a share `left` stays after training."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        wrong = [(chance.random() < rate, chance.random() < left) for _ in WORDS]
        said = ["alpha" if missed and stays else word for word, (missed, stays) in zip(WORDS, wrong, strict=True)]
        row = score_utterance(id=str(number), speaker_id=None, seconds=Seconds(4.0), reference=" ".join(WORDS), hypothesis=" ".join(said))
        rows.append(row)
    return total(rows)


def test_the_gate_decides_on_about_so_many_utterances_and_seldom_on_a_quarter() -> None:
    needed = utterances_needed(heard(20, RATE, seed=1), seed=0)
    assert needed is not None
    assert needed > 30
    assert accepted(needed + needed // 2) >= 4
    assert accepted(needed // 4) <= 2


def accepted(count: int) -> int:
    """In how many of six experiments a training that removes the expected share is accepted on the domain."""
    verdicts = []
    for seed in range(6):
        change = compare(heard(count, RATE, seed), heard(count, RATE, seed, left=1 - EXPECTED_GAIN), 0)
        verdicts.append(judge(domain=change, heldout=change, drift=None, rules=GateConfig(rule="interval")).checks[0].decision)
    return verdicts.count("accepted")


def test_what_is_there_is_enough_where_errors_are_many() -> None:
    assert utterances_needed(heard(200, 0.3, seed=1), seed=0) == 200


def test_without_errors_there_is_nothing_to_gain_and_one_utterance_tells_nothing() -> None:
    assert utterances_needed(heard(20, 0.0, seed=1), seed=0) is None
    with pytest.raises(ScoringError):
        utterances_needed(heard(1, 1.0, seed=1), seed=0)
