"""One run from settings to verdict. The only module that knows the order of the stages."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec

from lora import publish
from lora.checkpoints.checkpoint import resolve
from lora.checkpoints.provenance import ADAPTER_WEIGHTS, CHECKPOINT_WEIGHTS
from lora.config import RunConfig
from lora.display import Display
from lora.errors import LoraError, StoppedError
from lora.evaluation.evaluate import Evaluator
from lora.language import metric
from lora.model.loading import LoadedModel, load_model
from lora.pipeline.baseline import baseline_of, check_texts, evaluator_of, heldout_examples, require_sound_labels, scored, train_data
from lora.pipeline.fitting import attached, augmented, encoded, scored_on_dev, training_title
from lora.pipeline.preparation import Prepared, opening_record, prepare
from lora.pipeline.reporting import Reporter
from lora.report.card import CARD_FILE, write_card
from lora.report.html import write_html
from lora.report.markdown import write_report
from lora.report.metrics import write_metrics
from lora.runs import record as records
from lora.runs.folder import RunLog, continue_in, hold_unfinished, take
from lora.runs.outcomes import Evaluation, Strength, TrainOutcome
from lora.runs.record import AdapterInfo, Resumption, RunRecord, SetResult, result_folder
from lora.runs.tracking import Trackers
from lora.scoring.analysis import unseen_words
from lora.scoring.counts import read_again
from lora.scoring.gate import judge
from lora.scoring.significance import compare, drift, interval
from lora.scoring.terms import TermsFound, compare_terms
from lora.system import distributed
from lora.system.artifacts import HTML_FILE, LOG_FILE, MARKDOWN_FILE, PROCESSOR_FOLDER
from lora.system.cache import prune
from lora.system.files import atomic_folder, remove_at_once, sha256_file, system_errors
from lora.system.process import give_back_memory
from lora.system.signals import HeldSignals, TerminatedError
from lora.text.normaliser import normaliser_version
from lora.training import adapter as adapters
from lora.training import checkpointing
from lora.training import strength as strengths
from lora.training.adapter import Adapted, Provenance
from lora.training.checkpointing import TrainState
from lora.training.loop import Progress, TrainData, learning_rate, planned_steps, train
from lora.training.sets import SpeechSet, examples
from lora.units import Seconds


def experiment(config: RunConfig, metrics_file: str, display: Display, *, resume: bool = False) -> RunRecord:
    """Baseline, training, tuned scores, verdict; the artifacts are in the run folder when it returns.

    `metrics_file` is the name of the flat metrics file. A failure or an interruption is written into the record and raised again.
    With `resume` the folder's unfinished run continues from its last checkpoint, or from the start if there is none: what comes before
    the training is made again, for the most part read from the cache, and is the same. Of several processes the main one writes.
    """
    prepared = prepare(config, display, resume=resume)
    names = config.output.tracker_names() if distributed.is_main() else ()
    try:
        with closing(Trackers(names, prepared.folder, display.line)) as trackers:
            return _experiment(prepared, metrics_file, trackers, display)
    finally:
        prepared.hold.release()


def _experiment(prepared: Prepared, metrics_file: str, trackers: Trackers, display: Display) -> RunRecord:
    config = prepared.config
    record, log, state = _opened(prepared, display)
    try:
        here = record.environment
        log.write("start", command=record.command, device=here.device, computing=here.computing, processes=distributed.count())
        log.write("sentences_trained", **{name: info.sentences_trained for name, info in record.manifests.items()})
        trackers.start(config, on_cpu=prepared.speech.device.type == "cpu")
        record = _stages(prepared, record, state, Reporter(log, trackers, display, metric(config.model.language)))
        record = _closed(record, display, status="completed", error=None)
        if distributed.is_main():
            _finish(prepared, record, metrics_file, log)
    except BaseException as error:
        status: records.Status = "failed" if isinstance(error, Exception) else "interrupted"
        message = _reason(error)
        if distributed.is_main() and prepared.hold.stands():  # otherwise the folder belongs to another run
            log.write(status, error=message)
            record = _closed(record, display, status=status, error=message)
            records.write(record, prepared.folder)
            write_metrics(record, prepared.folder / metrics_file)
            if status == "interrupted":
                display.line(f"to continue, repeat the command with --resume: {_whence(checkpointing.newest(prepared.checkpoints))}")
        raise
    if distributed.is_main():
        _publish(record, prepared.folder, log, display)  # the run is complete even if the hub refuses
    return record


def _opened(prepared: Prepared, display: Display) -> tuple[RunRecord, RunLog, TrainState | None]:
    """The opening record, the log in the run folder, and the state from which training resumes."""
    record, before, hold = opening_record(prepared), prepared.unfinished, prepared.hold
    file = prepared.folder / LOG_FILE if distributed.is_main() else None
    if before is None:
        distributed.from_main(lambda: take(prepared.folder, prepared.config.output.overwrite, record, hold))
        return record, RunLog(file, hold), None
    distributed.from_main(lambda: hold_unfinished(prepared.folder, before, hold))
    state = distributed.from_main(lambda: checkpointing.read(path) if (path := checkpointing.newest(prepared.checkpoints)) else None)
    step = state.numbers.step if state else 0
    if state:
        display.seconds = {
            name: Seconds(display.seconds.get(name, 0.0) + state.numbers.stages.get(name, 0.0))
            for name in state.numbers.stages | display.seconds
        }
    goes_on = Resumption(at=records.now(), step=step)
    record = msgspec.structs.replace(record, started_at=before.started_at, resumed=(*before.resumed, goes_on))
    distributed.from_main(lambda: continue_in(prepared.folder, record))
    log = RunLog(file, hold)
    log.write("resumed", step=step)
    display.line(f"resumed {_whence(checkpointing.newest(prepared.checkpoints))}")
    for name, version in record.environment.versions.items():
        if (was := before.environment.versions.get(name)) != version:
            display.line(f"{name} was {was}, is {version}: the last digits of the result may differ")
    return record, log, state


def _whence(checkpoint: Path | None) -> str:
    return f"from step {checkpointing.step_of(checkpoint)}" if checkpoint else "from the start, for there is no checkpoint yet"


def _finish(prepared: Prepared, record: RunRecord, metrics_file: str, log: RunLog) -> None:
    """Writes the reports, and the record last: a completed run is whole."""
    prepared.hold.require()
    write_report(record, prepared.folder / MARKDOWN_FILE)
    write_html(record, prepared.folder / HTML_FILE)
    write_card(record, prepared.folder / result_folder(prepared.config.adapter) / CARD_FILE)
    write_metrics(record, prepared.folder / metrics_file)
    prune(int(prepared.config.output.feature_cache_gb * 1e9))
    log.write("completed", decision=record.verdict.decision if record.verdict else None)  # checks the hold on the folder again
    records.write(record, prepared.folder)
    if prepared.checkpoints.is_dir():
        remove_at_once(prepared.checkpoints)


def _publish(record: RunRecord, folder: Path, log: RunLog, display: Display) -> None:
    """Puts an accepted run on the hub when the settings say so."""
    repo_id = record.config.output.push_to_hub
    if repo_id is None:
        return
    if record.verdict is None or not record.verdict.accepted:
        display.line(f"not published in {repo_id}: the run was not accepted; publish it with moonshine-lora push --allow-rejected")
        return
    with display.stage("push", f"Publishing in {repo_id}"), publish.gathered(folder, allow_rejected=False) as uploads:
        address = publish.push(uploads, repo_id, private=record.config.output.hub_private)
    display.line(address)
    log.write("published", address=address)


def _reason(error: BaseException) -> str:
    """Why a run ended, for its record: the message of the command line if there is one."""
    if isinstance(error, LoraError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | TerminatedError):
        return "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
    return repr(error)


def _stages(prepared: Prepared, record: RunRecord, state: TrainState | None, reporter: Reporter) -> RunRecord:
    display = reporter.display
    if prepared.augmenter is not None:
        prepared, added = augmented(prepared, prepared.augmenter, reporter)
        record = msgspec.structs.replace(record, augmentation=added)
    config, sets = prepared.config, prepared.sets
    evaluator = evaluator_of(prepared, encoded(prepared, sets.named(), display))
    if config.data.check_texts:
        check_texts(prepared, evaluator, display)
    test_sets = {"domain": examples(prepared.speech, sets.domain, sets.style), "heldout": heldout_examples(prepared, evaluator, display)}
    with display.stage("baseline", "Baseline"):
        found = {name: baseline_of(prepared, part, evaluator, display) for name, part in test_sets.items()}
        baseline = {name: _read(prepared, evaluation) for name, (evaluation, _) in found.items()}
        record = msgspec.structs.replace(record, baseline_known=tuple(name for name, (_, again) in found.items() if again))
        reporter.scores("baseline", baseline, step=0)
        require_sound_labels(prepared, test_sets["heldout"], baseline["heldout"], evaluator)
    data, left_out = train_data(prepared, evaluator, display)
    record = msgspec.structs.replace(record, replay_left_out=left_out)
    adapted, evaluator = attached(prepared, evaluator)
    with display.stage("train", training_title(adapted)):
        outcome = _train(prepared, adapted, data, evaluator, state, reporter)
    strength, tried = _sweep(adapted, data, outcome, evaluator, reporter) if config.train.strength_sweep else (None, ())
    info = distributed.from_main(lambda: _save(prepared, adapted))
    prepared.speech.release()  # the tuned model is read from disk
    with display.stage("tuned", f"Tuned model, loaded from the saved {'checkpoint' if adapted.full else 'adapter'}"):
        speech = _reloaded(prepared)
        give_back_memory()
        evaluator = replace(evaluator, speech=speech, features=evaluator.features.encoded_by(speech))
        said = [row.hypothesis for row in baseline["heldout"].score.utterances]  # general speech should sound as before
        drafts = {"domain": None, "heldout": said}
        tuned = {name: _read(prepared, scored(evaluator, part, display, drafts[name])) for name, part in test_sets.items()}
        reporter.scores("tuned", tuned, step=outcome.steps)
    damaged = _damaged(prepared, reporter)
    results = {name: _result(baseline[name], tuned[name], config.train.seed) for name in test_sets}
    moved = drift(baseline["heldout"].score, tuned["heldout"].score, config.train.seed)
    terms = _terms_found(prepared, results)
    verdict = judge(domain=results["domain"].comparison, heldout=results["heldout"].comparison, drift=moved, rules=config.gate, terms=terms)
    reporter.trackers.log({"verdict/accepted": int(verdict.accepted), "verdict": verdict.sentence}, outcome.steps)
    return msgspec.structs.replace(
        record,
        adapter=info,
        training=outcome,
        strength=strength,
        strengths=tried,
        domain=results["domain"],
        domain_unseen_words=unseen_words(_texts(sets.train), _texts(sets.domain), config.model.language),
        heldout=results["heldout"],
        heldout_drift=moved,
        terms=terms,
        verdict=verdict,
        cache_damaged=damaged,
    )


def _damaged(prepared: Prepared, reporter: Reporter) -> tuple[str, ...]:
    """Names of kept files that were found damaged and made again, by any process of the run."""
    names = sorted({file.name for files in distributed.gathered(lambda: list(prepared.kept.damaged)) for file in files})
    if names:
        reporter.damaged(names, prepared.kept.folder)
    return tuple(names)


def _read(prepared: Prepared, evaluation: Evaluation) -> Evaluation:
    """The evaluation with the user's equivalents in the reader's count."""
    if prepared.equivalents is None:
        return evaluation
    return msgspec.structs.replace(evaluation, score=read_again(evaluation.score, prepared.equivalents))


def _texts(part: SpeechSet) -> list[str]:
    return [utterance.text or "" for utterance in part.manifest]


def _train(
    prepared: Prepared,
    adapted: Adapted,
    data: TrainData,
    evaluator: Evaluator,
    state: TrainState | None,
    reporter: Reporter,
) -> TrainOutcome:
    """Six parameters, as `train` has: `prepared` holds the settings, `reporter` shows the progress."""
    config = prepared.config.train
    signals = HeldSignals(patient=distributed.count() > 1)
    with signals, reporter.display.bar(planned_steps(config, len(data.domain)), "updates") as advance:
        if state is not None:
            advance(state.numbers.step, "")

        def update(step: int, steps: int, loss: float, speed: float) -> None:
            values = {"loss": loss, "learning_rate": learning_rate(adapted, config, step, steps), "audio_seconds_per_second": speed}
            reporter.update(step, values, advance)

        def save(reached: TrainState) -> None:
            _checkpoint(prepared, reached, reporter)

        progress = Progress(update, reporter.evaluated, save, lambda: signals.received)
        try:
            return train(adapted, data, evaluator, config, progress, state)
        except StoppedError:
            signals.end()
        finally:
            give_back_memory()


def _checkpoint(prepared: Prepared, reached: TrainState, reporter: Reporter) -> None:
    """Saves the training state, with the time that the stages have taken so far."""
    numbers = msgspec.structs.replace(reached.numbers, stages=reporter.display.seconds_so_far())
    prepared.hold.require()
    try:
        checkpointing.write(replace(reached, numbers=numbers), prepared.checkpoints)
    except FileNotFoundError:
        prepared.hold.require()  # the folder was removed at the same moment
        raise


def _sweep(
    adapted: Adapted, data: TrainData, outcome: TrainOutcome, evaluator: Evaluator, reporter: Reporter
) -> tuple[float, tuple[Strength, ...]]:
    """Scales the adapter to the largest share of its update that spares the guard."""
    base = outcome.history[0].guard_wer
    assert base is not None  # strength.check() has required a guard

    def score() -> tuple[Evaluation, Evaluation]:
        dev, guard = scored_on_dev(adapted, data, evaluator)
        assert guard is not None
        return dev, guard

    with reporter.display.stage("sweep", "Strength of the update"):
        chosen, tried = strengths.sweep(adapted, base, score)
        reporter.strengths(tried, chosen)
    return chosen, tried


def _save(prepared: Prepared, adapted: Adapted) -> AdapterInfo:
    """Writes adapter and processor, each whole or not at all."""
    prepared.hold.require()
    provenance = Provenance(
        base_model_id=prepared.checkpoint.model_id,
        base_revision=prepared.checkpoint.revision,
        base_sha256=prepared.checkpoint.sha256,
        audio=prepared.config.data.audio(),
        decode=prepared.decode,
        text_style=prepared.sets.style,
        normaliser=normaliser_version(prepared.speech.language),
        language=prepared.speech.language,
    )
    made = prepared.folder / result_folder(prepared.config.adapter)
    with atomic_folder(made) as folder, system_errors():
        if adapted.full:
            adapters.save_checkpoint(adapted, folder, provenance)
        else:
            adapters.save(adapted, folder, provenance)
    with atomic_folder(prepared.folder / PROCESSOR_FOLDER) as folder, system_errors():
        prepared.speech.processor.save_pretrained(folder)
    start = prepared.config.adapter.from_adapter
    return AdapterInfo(
        started_from=sha256_file(Path(start) / ADAPTER_WEIGHTS) if start is not None else None,
        sites=adapted.sites,
        parameters=sum(parameter.numel() for parameter in adapted.parameters()),
        sha256=sha256_file(made / (CHECKPOINT_WEIGHTS if adapted.full else ADAPTER_WEIGHTS)),
    )


def _reloaded(prepared: Prepared) -> LoadedModel:
    """The tuned model as it is on disk."""
    config, made = prepared.config, prepared.folder / result_folder(prepared.config.adapter)
    full = config.adapter.method == "full"
    checkpoint = resolve(str(made.resolve())) if full else prepared.checkpoint
    speech = load_model(checkpoint, prepared.speech.device, config.model.precision, config.model.language)
    if not full:
        adapters.fold_in(adapters.load(speech, made))
    return speech


def _result(baseline: Evaluation, tuned: Evaluation, seed: int) -> SetResult:
    return SetResult(
        baseline=baseline,
        baseline_interval=interval(baseline.score, seed),
        tuned=tuned,
        tuned_interval=interval(tuned.score, seed),
        comparison=compare(baseline.score, tuned.score, seed),
    )


def _terms_found(prepared: Prepared, results: dict[str, SetResult]) -> TermsFound | None:
    terms, seed = prepared.terms, prepared.config.train.seed
    if terms is None:
        return None
    domain, heldout = (
        compare_terms(terms, results[name].baseline.score, results[name].tuned.score, seed) for name in ("domain", "heldout")
    )
    return TermsFound(path=terms.path, sha256=terms.sha256, domain=domain, heldout=heldout)


def _closed(record: RunRecord, display: Display, *, status: records.Status, error: str | None) -> RunRecord:
    stages = display.seconds_so_far()
    return msgspec.structs.replace(record, status=status, error=error, finished_at=records.now(), stages=stages)
