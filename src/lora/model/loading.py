"""The only module that names Moonshine's classes: loads model and processor; batches of encoder outputs and of labels.

transformers is imported by what needs it: its model classes take twice as long as PyTorch.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lora.checkpoints.checkpoint import Checkpoint, require_language
from lora.checkpoints.model_folder import require_no_code
from lora.errors import CheckpointError, ConfigError
from lora.language import Language
from lora.model import bare
from lora.model import processor as processors
from lora.model.products import PRODUCT_DTYPES, PRODUCTS_VARIABLE, choice, instruction_set
from lora.system import distributed
from lora.system.device import Device, Precision
from lora.system.documents import read_json, require_json
from lora.text.byte_tokens import whole
from lora.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST = 1e6
"""Largest absolute value of a weight. No training ends near it; a flipped bit of an exponent mostly ends far above."""

IGNORED_LABEL = -100
"""Label value that does not enter the loss: padding, by position and never by token id, because pad and EOS share an id in v1."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoder output of a batch: `hidden` [batch, frames, width]; `mask` bool [batch, frames], true where a clip has sound.

    Where no clip is padded there is no mask, and attention takes its fastest kernel.
    """

    hidden: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class LoadedModel:
    """A loaded checkpoint with its processor. `model` may carry a LoRA adapter, whose layers replace the adapted ones in place.

    It is transformers' own, or for use alone its bare modules.
    """

    model: "PreTrainedModel | Any"
    processor: Any
    checkpoint: Checkpoint
    device: torch.device
    precision: Precision
    language: Language = "en"

    @property
    def streaming(self) -> bool:
        return bool(self.model.config.model_type == "moonshine_streaming")

    @property
    def encoder(self) -> Any:
        return self.model.get_encoder()

    @property
    def decoder(self) -> Any:
        return self.model.get_decoder()

    @property
    def head(self) -> Any:
        """Decoder width to vocabulary logits."""
        return self.model.get_output_embeddings()

    @property
    def start_id(self) -> int:
        return int(self.model.config.decoder_start_token_id)

    @property
    def end_id(self) -> int:
        return int(self.model.config.eos_token_id)

    @property
    def computing(self) -> str:
        """How it computes, for messages: precision, kind of products, instructions."""
        products = choice(self.device, PRODUCT_DTYPES[self.precision])
        return f"{self.precision} on {self.device_name}, products {products}"

    @property
    def device_name(self) -> str:
        """The device and what it is: a GPU's name, or the class of a CPU's instructions."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else instruction_set()
        return f"{self.device.type} ({name})"

    @property
    def arithmetic(self) -> tuple[str, ...]:
        """Everything about the model that decides its numbers: weights, precision, device, kind of products."""
        return (self.checkpoint.sha256, self.computing)

    @property
    def when_not_finite(self) -> str:
        """What to do about NaN and infinity: loaded weights are finite, so it is the arithmetic."""
        if self.precision != "float32":
            return "this is a fault of products on this processor: use --precision float32, and report it with this line"
        if choice(self.device, torch.float32).kind == "packed":
            return f"this is a fault of products on this processor: set {PRODUCTS_VARIABLE}=plain, and report it with this line"
        return "the checkpoint's weights or the adapter's are too large for float32: use another"

    def release(self) -> None:
        """Frees the memory of the weights; the model cannot compute afterwards."""
        nn.Module.to(self.model, "meta")

    def labels(self, text: str) -> list[int]:
        """Token ids of a training target: the text, then EOS. The start token is the decoder's first input, not a label."""
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.end_id]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The place of each of the `labels` in a text: its first character and the one after its last. EOS is empty, at the end."""
        encoding = self.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [*encoding["offset_mapping"], (len(text), len(text))]

    def text(self, tokens: Sequence[int]) -> str:
        tokenizer = self.processor.tokenizer
        spelled = whole(tokens, tokenizer.convert_ids_to_tokens, tokenizer.convert_tokens_to_ids)
        decoded: str = tokenizer.decode(spelled, skip_special_tokens=True)
        return decoded.strip()


def choose_device(device: Device) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU. Raises `ConfigError` for one that is absent."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return _own(next(name for name, there in available.items() if there))
    if not available[device]:
        there = ", ".join(name for name, present in available.items() if present)
        raise ConfigError(f"--device {device}: this machine has none that PyTorch {torch.__version__} can use; available: {there}")
    return _own(device)


def _own(kind: str) -> torch.device:
    """Of several GPUs each process of a machine takes its own."""
    if kind != "cuda" or not distributed.launched():
        return torch.device(kind)
    if distributed.local_rank() >= torch.cuda.device_count():
        raise ConfigError(
            f"process {distributed.local_rank()} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs, or give --device cpu"
        )
    return torch.device("cuda", distributed.local_rank())


def load_model(checkpoint: Checkpoint, device: torch.device, precision: Precision, language: Language = "en") -> LoadedModel:
    """Loads transformers' model and processor in evaluation mode, no parameter requiring a gradient.

    Raises `CheckpointError` when weights and configuration do not fit together, and `ConfigError` when the checkpoint is for another
    language.
    """
    require_language(checkpoint, language)
    model, processor = _by_transformers(checkpoint.folder), load_processor(checkpoint.folder)
    return _checked(LoadedModel(model, processor, checkpoint, device, precision, language))


def load_for_use(checkpoint: Checkpoint, device: torch.device, precision: Precision, language: Language = "en") -> LoadedModel:
    """As `load_model`, for transcribing only: without transformers if the checkpoint is of the usual form.

    Training, saving and exporting take transformers' model.
    """
    require_language(checkpoint, language)
    processor = load_processor_for_use(checkpoint.folder)  # checks the files first
    with _refusing(checkpoint.folder):
        own = bare.read(checkpoint.folder)
    model = _by_transformers(checkpoint.folder) if own is None else own
    return _checked(LoadedModel(model, processor, checkpoint, device, precision, language))


def _checked(speech: LoadedModel) -> LoadedModel:
    """The model on its device, after checking its weights and that it has the processor's tokens."""
    _require_values(speech.model, speech.checkpoint.folder)
    require_vocabulary(speech.processor, speech.model, speech.checkpoint.folder)
    nn.Module.to(speech.model, speech.device)
    return speech


def _by_transformers(folder: Path) -> "PreTrainedModel":
    from transformers import MoonshineForConditionalGeneration, MoonshineStreamingForConditionalGeneration

    classes: dict[str, Any] = {
        "moonshine": MoonshineForConditionalGeneration,
        "moonshine_streaming": MoonshineStreamingForConditionalGeneration,
    }
    kind = read_json(folder / "config.json", error=CheckpointError)["model_type"]  # resolve() has checked it
    with _loading(folder):
        model, report = classes[kind].from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,  # reported below with the other reasons
            output_loading_info=True,
            use_safetensors=True,  # and never a pickle
            trust_remote_code=False,
        )
    absent = sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"])
    if absent:
        raise CheckpointError(f"{folder}: {len(absent)} weights are missing or of another shape, among them {absent[0]}")
    if model.config.decoder_start_token_id is None or model.config.eos_token_id is None:
        raise CheckpointError(f"{folder}/config.json: decoder_start_token_id and eos_token_id must be set")
    model.requires_grad_(False)
    trained: PreTrainedModel = model.eval()
    return trained


def load_processor(folder: Path) -> Any:
    """The processor of a checkpoint or of a run's `processor/` folder, as transformers has it.

    Raises `CheckpointError` when it is damaged, asks for code of its own, or is not for 16 kHz.
    """
    from transformers import AutoProcessor

    require_no_code(folder)
    with _loading(folder):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        rate_hz = processor.feature_extractor.sampling_rate
    _require_rate(folder, rate_hz)
    return processor


def load_processor_for_use(folder: Path) -> Any:
    """As `load_processor`, without transformers if the files are of the usual form."""
    require_no_code(folder)
    with _loading(folder):
        processor = processors.read(folder)
    if processor is None:
        return load_processor(folder)
    _require_rate(folder, processor.feature_extractor.sampling_rate)
    return processor


def _require_rate(folder: Path, rate_hz: int) -> None:
    if rate_hz != SAMPLE_RATE_HZ:
        raise CheckpointError(f"{folder}: the processor wants {rate_hz} Hz; Moonshine takes {SAMPLE_RATE_HZ} Hz")


def require_vocabulary(processor: Any, model: Any, folder: Path) -> None:
    """Raises `CheckpointError` when the processor of `folder` has tokens that the model does not know."""
    size, rows = len(processor.tokenizer), model.get_output_embeddings().weight.shape[0]
    if not 0 < size <= rows:
        raise CheckpointError(f"{folder}: its tokenizer has {size} tokens, the model {rows}; give the processor that belongs to the model")


def _require_values(model: nn.Module, folder: Path) -> None:
    """Raises `CheckpointError` for weights that are not finite, or larger than training gives: a damaged file, or one of another type."""
    largest = {name: max(abs(value.item()) for value in weight.aminmax()) for name, weight in model.named_parameters()}
    if broken := [name for name, value in largest.items() if not math.isfinite(value)]:
        raise CheckpointError(f"{folder}: {len(broken)} weights hold NaN or infinity, among them {broken[0]}; get the checkpoint again")
    if wild := [name for name, value in largest.items() if value > MOST]:
        raise CheckpointError(f"{folder}: {wild[0]} holds {largest[wild[0]]:.3g}, which no training gives; get the checkpoint again")


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """As `_refusing`, but files that are no JSON are refused by name first."""
    for file in sorted(folder.glob("*.json")):
        require_json(file, CheckpointError)
    with _refusing(folder):
        yield


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turns what libraries raise for a damaged file into one line: exceptions of many kinds, often without a file's name."""
    try:
        yield
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder}: cannot be loaded ({type(error).__name__}: {reason}); a file there is damaged or of another model, copy them again"
        ) from error


def _mask(lengths: Sequence[int], like: Tensor) -> Tensor | None:
    if min(lengths) == max(lengths):
        return None
    return torch.arange(like.shape[1], device=like.device)[None] < torch.tensor(lengths, device=like.device)[:, None]


def join(features: Sequence[Tensor]) -> Encoded:
    """A batch from single clips' encoder outputs, each `[frames, width]`."""
    hidden = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    return Encoded(hidden, _mask([f.shape[0] for f in features], hidden))


def pad_labels(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """`[batch, longest]` of token ids, padded with `IGNORED_LABEL`."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=IGNORED_LABEL).to(device, non_blocking=True)
