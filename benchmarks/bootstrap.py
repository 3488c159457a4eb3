"""Times the bootstrap of a large test set: 10,000 resamples of 10,000 utterances by default.

Run with one thread, `OMP_NUM_THREADS=1 python benchmarks/bootstrap.py`, on a machine that does nothing else.
"""

import argparse
import time

import msgspec
import numpy as np

from lora.scoring.counts import Counts, UtteranceScore, score_utterance, total
from lora.scoring.significance import RESAMPLES, compare, interval
from lora.units import Seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    words = generator.integers(1, 30, options.utterances)
    errors = [generator.binomial(words, rate) for rate in (0.10, 0.08)]
    empty = score_utterance(id="u", speaker_id=None, seconds=Seconds(1.0), reference="", hypothesis="")
    baseline, tuned = (total([_row(empty, int(count), int(length)) for count, length in zip(side, words, strict=True)]) for side in errors)
    for name, call in (("interval", lambda: interval(baseline, 0)), ("compare", lambda: compare(baseline, tuned, 0))):
        times = []
        for _ in range(options.repeats):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        print(
            f"{name:8} {RESAMPLES} resamples of {options.utterances} utterances: best {min(times):.2f} s, median {np.median(times):.2f} s"
        )


def _row(empty: UtteranceScore, errors: int, words: int) -> UtteranceScore:
    return msgspec.structs.replace(empty, words=Counts(hits=words, insertions=errors))


if __name__ == "__main__":
    main()
