"""The faults that `mutations.py` puts into the code, and the tests that must see each."""

from typing import NamedTuple

VOICE = "packages/lora-cli/tests/"


class Mutation(NamedTuple):
    """A text of the sources, found in one place only, what takes its place, and the tests that see it."""

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


def by(*tests: str) -> tuple[str, ...]:
    """Tests as `file::name`, or all of a file, below `tests/` where nothing else is said."""
    return tuple(test if test.startswith(VOICE) else f"tests/{test}" for test in tests)


INTERVALS = by("test_significance.py::test_intervals_are_those_that_r_computes")
COUNTS = by("test_scoring.py")
GATE = by("test_gate.py")
TERMS = by("test_terms.py", "test_terms_found.py::test_found_missed_and_false_alarms_are_counted_in_each_utterance")
LIMITS = by("test_terms_found.py::test_the_limits_of_the_gate", "test_terms_found.py::test_wilsons_interval_is_that_of_the_book")
SPEECH = by("test_synthesise.py")
SPLIT = by("test_data.py", "test_manifest.py")
KNOWN = by("test_known.py")
FEATURES = by("test_features.py::test_what_decides_the_output_decides_the_file")
KEPT = by("test_kept.py")
SIDES = by("test_recordings_channels.py::test_a_speaker_on_each_side_becomes_two_speakers")
WORDS = by("test_foreign.py::test_words_are_one_segment_up_to_a_pause_and_cut_at_the_longest_one_where_it_lasts_too_long")
STATES = by("test_decoder.py::test_states_of_clips_whose_scores_are_held_some_at_a_time_equal_those_of_transformers")
UPDATE = by(
    "test_train.py::test_gradients_are_clipped_to_the_norm_that_is_set",
    "test_train.py::test_weights_decay_by_rate_times_decay",
)
TEACHING = by("test_teaching.py")
RATE = by("test_train.py::test_the_learning_rate_warms_up_and_falls_linearly")
CHOICE = by(
    "test_best_step.py::test_of_steps_that_dev_cannot_tell_apart_the_lowest_loss_wins",
    "test_best_step.py::test_a_step_that_harms_the_guard_is_not_eligible_for_its_loss",
    "test_best_step.py::test_a_dev_set_too_small_to_tell_steps_apart_does_not_excuse_harm_to_the_guard",
    "test_best_step.py::test_one_word_more_is_no_harm_whatever_the_rounding",
)
MERGE = by(
    "test_adapter.py::test_merged_equals_unmerged_and_leaves_every_weight_as_it_was",
    "test_adapter.py::test_the_scale_of_an_update_does_not_depend_on_its_rank",
)
CAP = by(
    "test_decode.py::test_the_cap_grows_with_duration",
    "test_decode.py::test_each_clip_has_its_own_cap",
    "test_decode.py::test_a_transcript_that_ends_by_itself_is_not_capped_and_one_that_is_cut_is",
    "test_decode.py::test_caps_hold_for_labels_and_drafts_of_any_length",
)
STRENGTH = by(
    "test_strength.py::test_the_strongest_that_spares_the_guard_is_taken",
    "test_strength.py::test_what_is_left_is_the_chosen_share_exactly",
)
SWITCH = (
    f"{VOICE}test_engine.py::test_a_switch_in_a_pause_waits_for_the_end_of_the_recording",
    f"{VOICE}test_engine.py::test_a_switch_waits_for_the_end_of_what_is_being_said",
    f"{VOICE}test_engine.py::test_hands_free_a_switch_waits_for_the_end_of_the_utterance",
)
LOST = (
    f"{VOICE}test_microphone.py::test_blocks_that_are_lost_are_reported_once_each_and_only_while_it_is_recorded",
    f"{VOICE}test_microphone.py::test_blocks_that_portaudio_lost_are_counted_and_reported",
)
BEFORE = (
    f"{VOICE}test_recording.py::test_sound_from_before_a_recording_is_no_part_of_the_next",
    f"{VOICE}test_recording.py::test_every_sample_around_the_key_press_is_heard_once",
)

TABLE = (
    # terms
    Mutation("terms: case counts", "match.group()).casefold(), match.span()", "match.group()), match.span()", TERMS),
    Mutation("terms: no endings", '    if word.endswith("\'s"):\n        yield word[:-2]', "    if False:\n        yield word[:-2]", TERMS),
    Mutation("terms: the shortest of two", "range(min(self._longest, len(words) - place), 0, -1)", "range(1, self._longest + 1)", TERMS),
    Mutation(
        "terms: what is missed is heard falsely",
        "said & heard, said - heard, heard - said",
        "said & heard, heard - said, said - heard",
        TERMS,
    ),
    Mutation(
        "terms: found wherever they are heard", "said & heard, said - heard, heard - said", "heard, said - heard, heard - said", TERMS
    ),
    Mutation("teaching: a token that ends where a term begins is taught", "end > one.start for one", "end >= one.start for one", TEACHING),
    Mutation("teaching: padding keeps a distribution", "kept = (labels != IGNORED_LABEL) & ~taught", "kept = ~taught", TEACHING),
    Mutation("teaching: the divergence is reversed", "kept.sub_(found).mul_(shares)", "kept.sub_(found).mul_(found.exp())", TEACHING),
    Mutation("teaching: the teacher learns too", "deepcopy(speech.model).requires_grad_(False)", "speech.model", TEACHING),
    Mutation("terms: the recall's limit is exclusive", "share >= least - _ROUNDING_POINTS", "share > least + _ROUNDING_POINTS", LIMITS),
    Mutation("terms: false alarms have no limit", "within = score.alarms <= most + _ROUNDING_POINTS", "within = True", LIMITS),
    Mutation("terms: Wilson without its shift", "(share + weight / 2 - half) / (1 + weight)", "(share - half) / (1 + weight)", LIMITS),
    Mutation("speech: sentences are in every part", "% 10 in _SHARE[plan.part]", "% 10 >= 0", SPEECH),
    Mutation("speech: one spoken form only", "said[(start + turn) % len(said)]", "said[start]", SPEECH),
    Mutation("speech: one seed for all", 'f"{order.seed} {order.name} {place}"', 'f"{order.seed}"', SPEECH),
    # what chance can do
    Mutation("interval: the 97.5 % quantile of distances", "deviation * 1e-9), CONFIDENCE)", "deviation * 1e-9), 0.975)", INTERVALS),
    Mutation(
        "interval: the normal quantile", "    quantile = student(count - 1)", "    quantile = NormalDist().inv_cdf(1 - TAIL)", INTERVALS
    ),
    Mutation("interval: one degree of freedom too many", "    quantile = student(count - 1)", "    quantile = student(count)", INTERVALS),
    Mutation(
        "interval: no n/(n-1) in the standard error", "(residuals**2).sum()) * count / (count - 1))", "(residuals**2).sum()))", INTERVALS
    ),
    Mutation("interval: no n/(n-1) in resamples", "* lengths, 0) * count / (count - 1))", "* lengths, 0))", INTERVALS),
    Mutation("interval: as wide as it comes", "WIDEST = 2.0", "WIDEST = math.inf", INTERVALS),
    Mutation("interval: never wider than Student's", "WIDEST = 2.0", "WIDEST = 1.0", INTERVALS),
    Mutation("interval: 4 clusters are studentised", "STUDENTISED_CLUSTERS = 5", "STUDENTISED_CLUSTERS = 4", INTERVALS),
    Mutation("interval: 5 clusters are not studentised", "STUDENTISED_CLUSTERS = 5", "STUDENTISED_CLUSTERS = 6", INTERVALS),
    Mutation(
        "interval: a mean of rates", "estimate = float(errors.sum() / words.sum())", "estimate = float((errors / words).mean())", INTERVALS
    ),
    Mutation("interval: words of resamples are not drawn", "shift = moved / drawn_words", "shift = moved / words.sum()", INTERVALS),
    Mutation(
        "interval: nothing unseen",
        "half = max(quantile * deviation, UNSEEN_ERRORS / float(words.sum()))",
        "half = quantile * deviation",
        by("test_significance.py"),
    ),
    Mutation(
        "interval: two speakers are utterances", "len(set(speakers)) > 1 else", "len(set(speakers)) > 2 else", by("test_significance.py")
    ),
    Mutation("comparison: unpaired", "_bootstrap(_Clusters(after.errors - before.errors,", "_bootstrap(_Clusters(after.errors,", INTERVALS),
    Mutation(
        "improvement: a tie counts in full", "(drawn_errors == 0).mean() / 2)", "(drawn_errors == 0).mean())", by("test_significance.py")
    ),
    Mutation("p-value: one-sided", "return 2 * NormalDist().cdf(", "return NormalDist().cdf(", by("test_significance.py")),
    Mutation("p-value: variance by n", "differences.std(ddof=1)", "differences.std(ddof=0)", by("test_significance.py")),
    Mutation("drift: from the references", "reference=a.hypothesis,", "reference=a.reference,", by("test_significance.py")),
    # scores
    Mutation(
        "errors without insertions",
        "return self.substitutions + self.deletions + self.insertions",
        "return self.substitutions + self.deletions",
        COUNTS,
    ),
    Mutation(
        "words without deletions", "return self.hits + self.substitutions + self.deletions", "return self.hits + self.substitutions", COUNTS
    ),
    Mutation("an empty reference costs nothing", "return Counts(insertions=len(hypothesis))", "return Counts()", COUNTS),
    Mutation(
        "the hypothesis as written",
        "normalise(reference, language), normalise(hypothesis, language)",
        "normalise(reference, language), hypothesis",
        COUNTS,
    ),
    Mutation(
        "the loss as a mean of batches",
        "loss=sum(losses) / sum(len(example.labels) for example in examples)",
        "loss=sum(losses) / len(examples)",
        by("test_train.py::test_evaluation_loss_is_a_mean_over_tokens"),
    ),
    # the gate
    Mutation("gate: the domain by its middle", "    if it.high < 0:", "    if it.points < 0:", GATE),
    Mutation("gate: a gain that is too small is doubtful", "    if it.low > -least:", "    if it.low > 0:", GATE),
    Mutation("gate: the held-out set without its margin", "if within and it.high <= margin + _ROUNDING_POINTS:", "if within:", GATE),
    Mutation(
        "gate: worse beyond chance is doubtful", "if it.low > most or (it.low > 0 and it.points > margin):", "if it.low > most:", GATE
    ),
    Mutation(
        "gate: drift by its middle", "    if it.high <= most + _ROUNDING_POINTS:", "    if it.points <= most + _ROUNDING_POINTS:", GATE
    ),
    Mutation(
        "gate: one acceptance accepts", '= ("rejected", "inconclusive", "accepted")', '= ("rejected", "accepted", "inconclusive")', GATE
    ),
    Mutation(
        "needed: domain, only what shows a gain",
        "(it.high - it.points, -it.points), (it.points - it.low, least + it.points))",
        "(it.high - it.points, -it.points))",
        GATE,
    ),
    Mutation(
        "needed: domain, only what rules a gain out",
        "(it.high - it.points, -it.points), (it.points - it.low, least + it.points))",
        "(it.points - it.low, least + it.points))",
        GATE,
    ),
    Mutation(
        "needed: domain, beyond the smallest gain",
        "(it.high - it.points, -it.points), (it.points",
        "(it.high - it.points, -it.points - least), (it.points",
        GATE,
    ),
    Mutation(
        "needed: held-out, down to the rise",
        "half, target = it.high - it.points, margin - it.points",
        "half, target = it.high - it.points, most - it.points",
        GATE,
    ),
    Mutation(
        "needed: held-out, of the other side",
        "half, target = it.high - it.points, margin - it.points",
        "half, target = it.points - it.low, margin - it.points",
        GATE,
    ),
    Mutation(
        "needed: held-out, above the rise in any case", "it.points if it.points > margin else it.points - most", "it.points - most", GATE
    ),
    Mutation("needed: held-out, above zero in any case", "it.points if it.points > margin else it.points - most", "it.points", GATE),
    Mutation(
        "needed: drift, of the other side",
        "(it.high - it.points, most - it.points) if it.points <= most",
        "(it.points - it.low, most - it.points) if it.points <= most",
        GATE,
    ),
    Mutation("needed: drift, above zero", "else (it.points - it.low, it.points - most)", "else (it.points - it.low, it.points)", GATE),
    # sets
    Mutation(
        "dev left out of the speaker check",
        'own = {"train": train, "dev": dev, "domain": domain}',
        'own = {"train": train, "domain": domain}',
        SPLIT,
    ),
    Mutation(
        "domain left out of the speaker check",
        'own = {"train": train, "dev": dev, "domain": domain}',
        'own = {"train": train, "dev": dev}',
        SPLIT,
    ),
    Mutation(
        "no recording is looked for in two sets",
        "if common := hashes[first].keys() & hashes[second].keys():",
        "if common := set[str]():",
        SPLIT,
    ),
    Mutation("dev by utterance", 'data.split_by == "speaker", seed)', "False, seed)", SPLIT),
    Mutation(
        "replay trains on the guard",
        "replay, guard = _divide(replay, GUARD_FRACTION, False, seed)",
        "guard = _divide(replay, GUARD_FRACTION, False, seed)[1]",
        SPLIT,
    ),
    Mutation(
        "half of the held-out fraction",
        "wanted = max(1, round(fraction * len(manifest)))",
        "wanted = max(1, round(fraction * len(manifest) / 2))",
        SPLIT,
    ),
    # what is kept
    Mutation("known: without labels", "e.utterance.text, e.length_s, e.labels)", "e.utterance.text, e.length_s)", KNOWN),
    Mutation(
        "known: without speakers", "(e.utterance.id, e.utterance.speaker_id, e.utterance.text,", "(e.utterance.id, e.utterance.text,", KNOWN
    ),
    Mutation(
        "known: without the normaliser",
        "            normaliser_version(evaluator.speech.language),\n            evaluator.settings,",
        "            evaluator.settings,",
        KNOWN,
    ),
    Mutation(
        "known: without the settings of decoding",
        "(evaluator.speech.language),\n            evaluator.settings,\n",
        "(evaluator.speech.language),\n",
        KNOWN,
    ),
    Mutation("known: without the sound", "            [fingerprint(e.utterance.audio, self._audio) for e in examples],\n", "", KNOWN),
    Mutation("encoder outputs: without the arithmetic", "self._audio), self._speech.arithmetic)", "self._audio))", FEATURES),
    Mutation("encoder outputs: without the recording", "fingerprint(utterance.audio, self._audio), self._speech", "self._speech", FEATURES),
    Mutation("arithmetic without weights", "return (self.checkpoint.sha256, self.computing)", "return (self.computing,)", FEATURES),
    Mutation(
        "arithmetic without precision", "return (self.checkpoint.sha256, self.computing)", "return (self.checkpoint.sha256,)", FEATURES
    ),
    Mutation("a key without the code", "[code_digest(maker), _versions(), inputs]", "[_versions(), inputs]", KEPT),
    Mutation("a key without versions", "[code_digest(maker), _versions(), inputs]", "[code_digest(maker), inputs]", KEPT),
    Mutation("a key without inputs", "[code_digest(maker), _versions(), inputs]", "[code_digest(maker), _versions()]", KEPT),
    Mutation("a checksum that nobody compares", "if digest == _digest(payload):", "if digest:", KEPT),
    Mutation(
        "a hash of the last part alone",
        "        digest.update(part)",
        "        digest = hashlib.sha256(part)",
        by("test_files.py::test_hashes_of_bytes_and_files_are_those_of_the_standard"),
    ),
    # training
    Mutation("gradients are not clipped", "(self._parameters, self._config.max_grad_norm)", "(self._parameters, math.inf)", UPDATE),
    Mutation("weights do not decay", "weight_decay=config.weight_decay", "weight_decay=0.0", UPDATE),
    Mutation("the rate warms up a step late", "return (step + 1) / (warmup + 1)", "return step / (warmup + 1)", RATE),
    Mutation(
        "the rate falls to zero",
        "return max(0.0, (steps - step) / max(1, steps - warmup))",
        "return max(0.0, (steps - step - 1) / max(1, steps - warmup))",
        RATE,
    ),
    Mutation("the rate does not fall", "return max(0.0, (steps - step) / max(1, steps - warmup))", "return 1.0", RATE),
    Mutation(
        "batches count the same",
        "(loss / tokens).backward()",
        "(loss / sum(map(len, (e.labels for e in mine))) / len(update)).backward()",
        by("test_train.py::test_accumulated_batches_are_one_large_batch"),
    ),
    Mutation(
        "replay that is owed is forgotten",
        "owed -= count",
        "owed = 0.0",
        by("test_train.py::test_replay_is_rehearsed_in_its_ratio_in_batches_of_its_own"),
    ),
    Mutation(
        "the last step's weights stay",
        "        restore(self._adapted, self.kept[self.best_step])\n",
        "",
        by("test_best_step.py::test_training_that_does_harm_ends_with_an_adapter_that_does_nothing"),
    ),
    Mutation(
        "sweep: the guard has no say in the winner",
        "eligible([base, *steps], dev_words, guard_words)",
        "eligible([base, *steps], dev_words, 0)",
        by("test_sweep.py::test_the_winner_is_chosen_by_the_rule_that_chooses_a_step"),
    ),
    Mutation(
        "sweep: whatever is better is better beyond chance",
        "change.interval.high < 0",
        "change.difference < 0",
        by("test_sweep.py::test_a_winner_within_chance_of_the_settings_as_given_is_said_to_be_so"),
    ),
    Mutation("no margin between steps", "cost <= least + margin)", "cost <= least)", CHOICE),
    Mutation("a step that harms the guard is eligible", "(over == 0.0 and cost <= least + margin)", "(cost <= least + margin)", CHOICE),
    Mutation(
        "no word more on the guard",
        "return max(GUARD_TOLERANCE, 1 / guard_words) + _ROUNDING",
        "return GUARD_TOLERANCE + _ROUNDING",
        CHOICE,
    ),
    Mutation("one word more by luck", "1 / guard_words) + _ROUNDING", "1 / guard_words)", CHOICE),
    Mutation(
        "labels are not checked",
        "    if loss > OWN_TRANSCRIPT_LOSS:",
        "    if False:",
        by("test_experiment.py::test_labels_that_the_model_finds_unlikely_in_its_own_words_are_refused"),
    ),
    Mutation(
        "labels without an end token",
        "return [*ids, self.end_id]",
        "return ids",
        by("test_model_utils.py"),
    ),
    # the adapter
    Mutation("merging is not undone from a copy", "                layer.base_layer.weight.copy_(weight)", "                pass", MERGE),
    Mutation("another rank, another scale", "return math.sqrt(rank) if config.use_rslora else rank", "return config.lora_r", MERGE),
    Mutation("the update is scaled twice", 'weight * strength if ".lora_B." in name else weight', "weight * strength", STRENGTH),
    Mutation("the last strength stays", "    _scale(adapted, full, chosen)\n", "", STRENGTH),
    Mutation(
        "the weakest strength", "return max((one.strength for one in tried if", "return min((one.strength for one in tried if", STRENGTH
    ),
    # decoding
    Mutation("clips share the frames of the first", "self.part(at, at + held)) for", "self.part(0, min(held, count - at))) for", STATES),
    Mutation(
        "a cap without head room", "int(length_s * self.tokens_per_second) + EXTRA_TOKENS", "int(length_s * self.tokens_per_second)", CAP
    ),
    Mutation("a cap of one token more", "settings.cap(length_s), draft, tell)", "settings.cap(length_s) + 1, draft, tell)", CAP),
    Mutation("no clip is called capped", "len(row) == self._cap)", "len(row) > self._cap)", CAP),
    # the voice app
    Mutation("pre-roll of the recording before", "            self._kept.clear()\n", "", BEFORE),
    Mutation("pre-roll of any length", "[NOTHING, *self._kept])[-PREROLL_SAMPLES:]", "[NOTHING, *self._kept])", BEFORE),
    Mutation("lost blocks: not counted", "            self.overflows += 1", "            self.overflows = 0", LOST),
    Mutation(
        "lost blocks: all of them, again and again",
        "newly_lost, self._lost = lost - self._lost, lost",
        "newly_lost, self._lost = lost, lost",
        LOST,
    ),
    Mutation("lost blocks: never", "newly_lost, self._lost = lost - self._lost, lost", "newly_lost, self._lost = 0, lost", LOST),
    Mutation(
        "a voice switched in a pause",
        "self._take.segmenter.open is None and not self._take.segments:",
        "self._take.segmenter.open is None:",
        SWITCH,
    ),
    Mutation(
        "a voice switched in mid-sentence",
        "self._take.segmenter.open is None and not self._take.segments:",
        "not self._take.segments:",
        SWITCH,
    ),
    Mutation(
        "hands-free a voice is never switched",
        "            take.voice, take.other = self._voice, self._other\n",
        "",
        SWITCH,
    ),
    Mutation("recordings: a pause as long as the limit parts words", "if pause > pause_s:", "if pause >= pause_s - 0.1:", WORDS),
    Mutation("recordings: what is too long is cut at the first pause", "pauses.index(max(pauses)) + 1", "1", WORDS),
    Mutation(
        "recordings: the quieter side of a call", "*_, second, first = np.argsort(powers)", "*_, first, second = np.argsort(powers)", SIDES
    ),
    Mutation("recordings: ELAN's media offset the other way", "time / 1000 + origin_s", "time / 1000 - origin_s", by("test_foreign.py")),
    Mutation("recordings: a CTM's length is its end", "start_s + second if lasting else second", "second", by("test_foreign.py")),
)
