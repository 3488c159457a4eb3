"""Every file that is accepted lasts as long as a second decoder finds, and as long as what was written; half of it is refused."""

import random

import numpy as np
import pytest
from sounds import FORMS, Form, Samples, second_decoder_seconds

from lora.audio.loading import AudioSettings, EncodedAudio, duration, load, stored_seconds
from lora.errors import AudioError

AS_IS = AudioSettings()
SHORT = 12
"""Files of each form in the default run; the slow one makes ten times as many."""


def sound(source: random.Random, rate: int, channels: int) -> Samples:
    """0.3 to 3 s of tones that come and go, alike in all channels."""
    count = source.randrange(int(0.3 * rate), 3 * rate)
    time = np.arange(count) / rate
    tone = sum(np.sin(2 * np.pi * source.uniform(100, 1500) * time + source.random()) for _ in range(3))
    mono = 0.2 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * source.uniform(1, 5) * time))
    return np.stack([mono * (1 - 0.1 * channel) for channel in range(channels)], axis=1).astype(np.float32)


def check(form: Form, seed: int, times: int) -> None:
    source = random.Random(f"{form.name} {seed}")
    for _ in range(times):
        rate, channels = source.choice(form.rates), source.choice(form.channels)
        samples = sound(source, rate, channels)
        data = form.make(samples, rate)
        length_s = duration(load(EncodedAudio(data, form.name), AS_IS))
        told = f"{form.name}, {rate} Hz, {channels} channels, {len(samples)} frames"
        assert stored_seconds(EncodedAudio(data, form.name)) == pytest.approx(length_s, abs=0.001), told
        assert length_s == pytest.approx(second_decoder_seconds(data, form.second), abs=form.apart_s), told
        assert -0.01 < length_s - len(samples) / rate < form.block_s, told
        end = source.randrange(len(data) // 4, len(data) * 9 // 10)
        if form.bare and data[end] == 0xFF and data[end + 1] >= 0xE0:
            end += 1
        with pytest.raises(AudioError):
            load(EncodedAudio(data[:end], form.name), AS_IS)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_an_accepted_file_has_the_length_of_a_second_decoder_and_a_part_of_it_is_refused(form: Form) -> None:
    check(form, seed=0, times=SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_many_accepted_files_have_the_length_of_a_second_decoder(form: Form) -> None:
    check(form, seed=1, times=10 * SHORT)
