"""Exports a model and proves it: the only module that knows the order of these stages."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from lora.audio.loading import AudioSettings
from lora.checkpoints.checkpoint import Checkpoint, resolve
from lora.checkpoints.licences import licence
from lora.checkpoints.provenance import ADAPTER_WEIGHTS, CHECKPOINT_WEIGHTS, PROVENANCE_FILE
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, read
from lora.display import Display, export_table
from lora.errors import ConfigError, ExportError, ManifestError, ProofError, RunFolderError
from lora.export.about import About
from lora.export.agreement import compare_export
from lora.export.partial import Published, write_partly
from lora.export.proof import Models, ProofSet, Unscored, chosen, in_runtime, with_pytorch
from lora.export.targets import ASKS_ARCHITECTURE, ExportPrecision, Graph, Target, architecture, require_export, write_target
from lora.language import Language, traits
from lora.model.loading import load_model
from lora.model.transcript import DecodeSettings
from lora.report.html import write_html
from lora.report.markdown import write_report
from lora.runs import record as records
from lora.runs.export_record import EXPORT_FILE, Exported, ExportedFile, ProofSpeech, TargetExport
from lora.runs.record import RunRecord
from lora.runtimes.runtime import PACKAGES, require_runtimes
from lora.runtimes.separate import REQUIREMENT, TRANSFORMERS_JS
from lora.system.artifacts import HTML_FILE, MARKDOWN_FILE
from lora.system.files import atomic_folder, sha256_file, write_json
from lora.system.locking import held
from lora.system.process import peak_bytes
from lora.text.tags import TagRule
from lora.training import adapter as adapters
from lora.training.sets import SpeechSet, checked_set
from lora.units import Seconds

DRIFT_POINTS: dict[ExportPrecision, float] = {"u8": 0.5, "fp16": 0.5, "fp32": 0.0}
"""How far the WER in the runtime may be from PyTorch's: by default not at all in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to export, from where and to where, and how it is proven: `run`, or `model_id` with or without `adapter_folder`.

    What is left out has the default of `moonshine-lora export`.
    """

    targets: tuple[Target, ...]
    run: Path | None = None
    model_id: str | None = None
    revision: str | None = None
    language: Language | None = None
    adapter_folder: Path | None = None
    allow_rejected: bool = False
    precision: ExportPrecision = "u8"
    license: str | None = None
    """For formats that record it; None takes the run's `card_license`, or that of a published base model."""
    graphs: tuple[Graph, ...] = ()
    """Made anew, the others being taken from `published`; all of them where none is named."""
    published: Path | None = None
    output: Path | None = None
    overwrite: bool = False
    skip_proof: bool = False
    domain_manifest: Path | None = None
    heldout_manifest: Path | None = None
    proof_clips: int | None = None
    max_drift_points: float | None = None
    allow_outside_paths: bool = False
    tags: TagRule = "refuse"


@dataclass(frozen=True)
class _Source:
    """The model to export, checked, before anything is loaded."""

    checkpoint: Checkpoint
    """The base model."""
    adapter_folder: Path | None
    tuned: Checkpoint | None
    """Of a run that trained whole weights; else the adapter, if any, makes the tuned model of the base model."""
    audio: AudioSettings
    decode: DecodeSettings
    language: Language
    folder: Path
    record: RunRecord | None
    run: Path | None


def export(request: ExportRequest, display: Display) -> Exported:
    """Writes the targets, each into a folder of its name, proves each in its runtime, and puts the folder into place.

    A run is held meanwhile, and its record and reports are brought up to date. Raises `ProofError` when an export is not shown to be the
    tuned model, and then, as after every other refusal, leaves everything as it was.
    """
    require_export(request.targets, request.precision)
    if (published := _published(request)) is not None:
        published.kept()  # what is not there is told before the work
    on_device = [target for target in request.targets if target != "merged"]
    # The page of transformers-js is made of the runtime's own files, with a proof or without.
    require_runtimes(target for target in on_device if target == "transformers-js" or not request.skip_proof)
    source = _source(request)
    _require_free(source.folder, request.overwrite)
    with nullcontext() if source.run is None else held(source.run):
        return _Job(request, source, display)()


class _Job:
    """An export in progress: the request, its source, and where progress is shown."""

    def __init__(self, request: ExportRequest, source: _Source, display: Display) -> None:
        self._request, self._source, self._display = request, source, display

    def __call__(self) -> Exported:
        request, source, display = self._request, self._source, self._display
        with display.stage("read", "Reading the speech of the proof"):
            speech = {} if request.skip_proof else _speech(request, source)
            for name, one in speech.items():
                display.line(f"{name:8} {len(one.part):6} utterances {one.part.seconds / 60:7.1f} min   {one.part.manifest.path}")
        with display.stage("load", f"Loading {source.checkpoint.model_id}"):
            models = _models(source)
        size = _size(models, request.targets)
        with atomic_folder(source.folder) as folder:
            targets = {target: self._written(target, models, folder / target) for target in request.targets}
            account = self._account(models, speech, size, peak_bytes())
            if not request.skip_proof:
                sets = self._scored(models, speech)
                targets = {target: self._proven(target, found, folder / target, sets, models) for target, found in targets.items()}
            named = {str(target): found for target, found in targets.items()}
            exported = msgspec.structs.replace(account, targets=named, seconds=dict(display.seconds))
            display.result(export_table(exported))
            _require_proven(exported)
            write_json(folder / EXPORT_FILE, exported)
        if source.run is not None:
            _into_record(source.run, exported)
        return exported

    def _written(self, target: Target, models: Models, folder: Path) -> TargetExport:
        """`folder` is the target's own, which is made here."""
        started = time.perf_counter()
        precision = self._request.precision
        with self._display.stage(target, f"Exporting to {target}"):
            folder.mkdir()
            if (published := _published(self._request)) is not None:
                files = write_partly(models.tuned, models.base, published, precision, folder)
            else:
                files = write_target(models.tuned, target, precision, folder, _about(self._request, self._source))
            listed = tuple(
                ExportedFile(name=file.relative_to(folder).as_posix(), bytes=file.stat().st_size, sha256=sha256_file(file))
                for file in files
            )
            self._display.line(f"{sum(file.bytes for file in listed) / 1e6:.1f} MB, peak memory {peak_bytes() / 1e6:.0f} MB")
        kept: ExportPrecision = "fp32" if target == "merged" else precision
        return TargetExport(precision=kept, files=listed, seconds=Seconds(time.perf_counter() - started))

    def _scored(self, models: Models, speech: dict[str, Unscored]) -> dict[str, ProofSet]:
        sets, rate = {}, traits(models.base.language).metric
        with self._display.stage("pytorch", "Transcribing with PyTorch: base and tuned"):
            for name, one in speech.items():
                with self._bar(2 * len(one.part)) as advance:
                    found = sets[name] = with_pytorch(models, one, advance)
                self._display.line(f"{name:8} {rate} {100 * found.base.wer:.2f} % base, {100 * found.tuned.wer:.2f} % tuned")
        return sets

    def _proven(self, target: Target, written: TargetExport, folder: Path, sets: dict[str, ProofSet], models: Models) -> TargetExport:
        given = self._request.max_drift_points
        bound = given if given is not None else DRIFT_POINTS[written.precision]
        total = sum(len(part.examples) for part in sets.values())
        with self._display.stage(f"prove {target}", f"Transcribing with {target}"), self._bar(total) as advance:
            scores, speed = in_runtime(target, folder, sets, models, advance)
        adapted = models.adapter_sha256 is not None
        return msgspec.structs.replace(written, proof=compare_export(scores, adapted=adapted, max_drift_points=bound, speed=speed))

    @contextmanager
    def _bar(self, total: int) -> Iterator[Callable[[int], None]]:
        with self._display.bar(total, "utterances") as advance:
            yield lambda count: advance(count, "")

    def _account(self, models: Models, speech: dict[str, Unscored], size: str | None, peak: int) -> Exported:
        """The account of an export, except its targets."""
        source = self._source
        verdict = source.record.verdict if source.record else None
        return Exported(
            made_at=records.now(),
            command=records.command(),
            folder=str(source.folder),
            run=str(source.run) if source.run else None,
            gate=verdict.sentence if verdict else None,
            gate_accepted=verdict.accepted if verdict else None,
            model_id=source.checkpoint.model_id,
            base_sha256=source.checkpoint.sha256,
            adapter_sha256=models.adapter_sha256,
            architecture=size,
            tokens_per_second=source.decode.tokens_per_second,
            audio=source.audio,
            language=source.language,
            targets={},
            speech={
                name: ProofSpeech(path=str(one.part.manifest.path), sha256=one.part.manifest.sha256, utterances=len(one.part))
                for name, one in speech.items()
            },
            seconds={},
            peak_bytes=peak,
            versions=_versions(self._request),
        )


def _published(request: ExportRequest) -> Published | None:
    """The folder that some graphs are taken from. Raises `ConfigError` where what is asked for does not go together."""
    if not request.graphs and request.published is None:
        return None
    if not request.graphs or request.published is None:
        raise ConfigError("--graphs names the graphs that are made, and --published the folder that has the others; give both")
    if request.targets != ("moonshine-voice",):
        raise ConfigError("--graphs is for --to moonshine-voice alone; export to the other targets in a second command")
    return Published(request.published, tuple(dict.fromkeys(request.graphs)))


def _source(request: ExportRequest) -> _Source:
    if request.run is None:
        if request.model_id is None:
            raise ConfigError("give --run, or --model-id with or without --adapter-dir")
        if request.output is None:
            raise ConfigError("--output is not set; name the folder to export to")
        checkpoint = resolve(request.model_id, request.revision)
        folder = request.adapter_folder
        provenance = adapters.provenance_of(checkpoint) if folder is None else adapters.read_provenance(folder)
        if provenance is None:
            language = request.language or "en"
            decode = DecodeSettings(tokens_per_second=traits(language).tokens_per_second)
            return _Source(checkpoint, None, None, AudioSettings(), decode, language, request.output, None, None)
        if request.language not in (None, provenance.language):
            raise ConfigError(f"--language {request.language}: it was trained for {traits(provenance.language).name}; leave the flag out")
        return _Source(checkpoint, folder, None, provenance.audio, provenance.decode, provenance.language, request.output, None, None)
    alone = {"--model-id": request.model_id, "--adapter-dir": request.adapter_folder, "--revision": request.revision}
    for flag, given in (alone | {"--language": request.language}).items():
        if given is not None:
            raise ConfigError(f"--run names the model and its adapter; leave {flag} out")
    record = records.read(request.run)
    if record.status != "completed" or record.verdict is None:
        raise ExportError(f"{request.run}: the run is not complete ({record.status}); only a completed run can be exported")
    if not record.verdict.accepted and not request.allow_rejected:
        raise ExportError(f"{request.run}: {record.verdict.sentence}; pass --allow-rejected to export it anyway")
    folder, output = request.run / records.result_folder(record.config.adapter), request.output or request.run / "export"
    full = record.config.adapter.method == "full"
    tuned = resolve(str(folder.resolve())) if full else None
    provenance = adapters.provenance_of(tuned) if tuned is not None else adapters.read_provenance(folder)
    if provenance is None:
        raise ExportError(f"{folder}: has lost its {PROVENANCE_FILE}; run the experiment again")
    if record.adapter is None or sha256_file(folder / (CHECKPOINT_WEIGHTS if full else ADAPTER_WEIGHTS)) != record.adapter.sha256:
        raise ExportError(f"{folder}: is not what the run scored; export it with --model-id{'' if full else ' and --adapter-dir'}")
    base = resolve(record.checkpoint.model_id, record.checkpoint.revision)
    return _Source(
        base, None if full else folder, tuned, provenance.audio, provenance.decode, provenance.language, output, record, request.run
    )


def _require_free(folder: Path, overwrite: bool) -> None:
    """Raises `RunFolderError` for an existing folder, unless it is an export that may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; choose another --output")
    if any(folder.iterdir()) and not (folder / EXPORT_FILE).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no export; choose another --output")
    if any(folder.iterdir()) and not overwrite:
        raise RunFolderError(f"{folder}: holds an export; choose another --output or pass --overwrite")


def _speech(request: ExportRequest, source: _Source) -> dict[str, Unscored]:
    given = {"domain": request.domain_manifest, "heldout": request.heldout_manifest}
    found = {}
    for name, path in given.items():
        if path is not None:
            rules = Rules(allow_outside=request.allow_outside_paths, language=source.language, tags=request.tags)
            found[name] = Unscored(_read(path, rules, source.audio, request), True, "none", None)
        elif source.record is not None:
            found[name] = _of_run(name, source.record, source.audio, request)
    if not found:
        raise ConfigError("an export is proven on speech; give --domain-manifest and --heldout-manifest, or pass --skip-proof")
    return found


def _of_run(name: str, record: RunRecord, audio: AudioSettings, request: ExportRequest) -> Unscored:
    info, config = record.manifests[name], record.config
    guarded_by_drift = name == "heldout" and config.gate.guardrail == "drift"
    rules = config.heldout_rules() if name == "heldout" else config.rules()
    part = _read(Path(info.path), rules, audio, request)
    if part.manifest.sha256 != info.sha256:
        raise ManifestError(f"{info.path}: has changed since the run; put it back, or give --{name}-manifest")
    whole = len(part) == info.utterances
    return Unscored(
        part, not guarded_by_drift, record.text_style, {"domain": record.domain, "heldout": record.heldout}[name] if whole else None
    )


def _read(path: Path, rules: Rules, audio: AudioSettings, request: ExportRequest) -> SpeechSet:
    manifest = read(path, rules)
    part = chosen(checked_set(manifest, validate(manifest, rules, audio)), request.proof_clips)
    if len(part) < 2:
        raise ManifestError(f"{path}: one utterance proves nothing; add more, better a hundred")
    return part


def _models(source: _Source) -> Models:
    cpu = torch.device("cpu")
    base = load_model(source.checkpoint, cpu, "float32", source.language)
    if source.tuned is not None:
        tuned = load_model(source.tuned, cpu, "float32", source.language)
        return Models(base, tuned, source.tuned.sha256, True, source.audio, source.decode)
    if source.adapter_folder is None:
        return Models(base, base, None, False, source.audio, source.decode)
    tuned = load_model(source.checkpoint, cpu, "float32", source.language)
    adapted = adapters.load(tuned, source.adapter_folder)
    trains_encoder = adapted.trains_encoder
    adapters.fold_in(adapted)
    sha256 = sha256_file(source.adapter_folder / ADAPTER_WEIGHTS)
    return Models(base, tuned, sha256, trains_encoder, source.audio, source.decode)


def _size(models: Models, targets: tuple[Target, ...]) -> str | None:
    """The architecture's name where a runtime asks for it. Raises `ExportError` for one that these runtimes do not know."""
    return architecture(models.tuned) if ASKS_ARCHITECTURE & set(targets) else None


def _about(request: ExportRequest, source: _Source) -> About:
    """The adapter by the name of its folder, or of its run's; the licence as the model card has it."""
    folder = request.run or source.adapter_folder
    said = source.record.config.output.card_license if source.record else None
    base = licence(source.checkpoint.model_id)
    return About(folder.resolve().name if folder else None, request.license or said or (base.name if base else None))


def _versions(request: ExportRequest) -> dict[str, str]:
    """Versions of the packages that made the files, and of the runtimes that were used."""
    on_device = [target for target in request.targets if target != "merged"]
    graphs = [target for target in on_device if target != "gguf"]
    makers = (*(("onnx", "onnxruntime") if graphs else ()), *(("gguf",) if "gguf" in on_device else ()))
    names = ["moonshine-lora", "torch", "transformers", *makers]
    runtimes = () if request.skip_proof else tuple(PACKAGES[target][1] if target in PACKAGES else target for target in on_device)
    separate = {"moonshine-voice": REQUIREMENT.partition("==")[2], "transformers-js": TRANSFORMERS_JS}
    return {name: separate[name] if name in separate else version(name) for name in (*names, *runtimes)}


def _require_proven(exported: Exported) -> None:
    for name, target in exported.targets.items():
        if target.proof is not None and target.proof.failures:
            raise ProofError(f"{exported.folder}: not exported, {name} is not proven: {'; '.join(target.proof.failures)}")


def _into_record(run: Path, exported: Exported) -> None:
    """Puts the export in the place of an earlier one in the same folder."""
    record = records.read(run)
    others = tuple(one for one in record.exports if one.folder != exported.folder)
    record = msgspec.structs.replace(record, exports=(*others, exported))
    records.write(record, run)
    write_report(record, run / MARKDOWN_FILE)
    write_html(record, run / HTML_FILE)
