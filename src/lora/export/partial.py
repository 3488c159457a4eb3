"""Some graphs of a streaming model made anew, the others taken from a published folder: an adapter of the decoder changes only the decoder.

The published graphs stay as they are, byte for byte, so that a phone which has them needs only the new ones.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Final

import torch

from lora.errors import ExportError
from lora.export.formats import write_ort
from lora.export.quantise import quantised
from lora.export.streaming import QUANTISED, streaming_config, streaming_graphs
from lora.export.targets import GRAPHS, ExportPrecision, Graph
from lora.model.parts import FROM_FRAMES
from lora.system.destination import writing_errors
from lora.system.documents import read_json

if TYPE_CHECKING:
    from lora.model.loading import LoadedModel

_FILES: Final = ("streaming_config.json", "tokenizer.bin")
_TIMED: Final = "decoder_kv_with_attention"
"""Made with `decoder_kv`, whose weights it has too."""

_PLACES: Final[tuple[tuple[str, Graph], ...]] = (
    (r"model\.encoder\.embedder\.", "frontend"),
    (r"model\.encoder\.", "encoder"),
    (r"model\.decoder\.(pos_emb|proj)\.", "adapter"),
    (FROM_FRAMES, "cross_kv"),
    ("", "decoder_kv"),
)
"""Which graph holds a weight, by the beginning of its full name."""


@dataclass(frozen=True, slots=True)
class Published:
    """A folder of moonshine-voice with the untuned model, and the graphs that are made anew."""

    folder: Path
    graphs: tuple[Graph, ...]

    @property
    def made(self) -> tuple[str, ...]:
        """The files that are made, without their ending."""
        return (*self.graphs, *((_TIMED,) if "decoder_kv" in self.graphs else ()))

    def kept(self) -> list[Path]:
        """The files that are taken. Raises `ExportError` for those that are not there; the one for times of words need not be."""
        files = [self.folder / f"{name}.ort" for name in GRAPHS if name not in self.graphs]
        files += [self.folder / name for name in _FILES]
        if absent := [file.name for file in files if not file.is_file()]:
            raise ExportError(f"--published {self.folder}: holds no {', '.join(absent)}; give the folder of a published streaming model")
        timed = self.folder / f"{_TIMED}.ort"
        return [*files, *([timed] if _TIMED not in self.made and timed.is_file() else [])]


def write_partly(
    speech: "LoadedModel", base: "LoadedModel", published: Published, precision: ExportPrecision, folder: Path
) -> tuple[Path, ...]:
    """Writes what moonshine-voice loads into the existing, empty `folder`.

    Raises `ExportError` for a model that is not a streaming one, a folder of another model, and weights of `speech` that are not those of
    `base` in a graph that is not made anew.
    """
    if not speech.streaming:
        raise ExportError(f"{speech.checkpoint.model_id}: --graphs is for streaming models; leave it out")
    kept = published.kept()
    _require_same_model(speech, published.folder)
    if others := [graph for graph in changed(speech, base) if graph not in published.graphs]:
        raise ExportError(f"--graphs {' '.join(published.graphs)}: the tuned model has other weights in {', '.join(others)}; add it")
    graphs = streaming_graphs(speech)
    with writing_errors(folder):
        for file in kept:
            copyfile(file, folder / file.name)
        for name in published.made:
            model = graphs[name]()
            write_ort(quantised(model) if precision == "u8" and name in QUANTISED else model, folder / f"{name}.ort")
    return tuple(sorted(folder.iterdir()))


def changed(speech: "LoadedModel", base: "LoadedModel") -> list[Graph]:
    """The graphs with weights that are not the same in both models."""
    before = base.model.state_dict()
    names = [name for name, weight in speech.model.state_dict().items() if not torch.equal(weight, before[name])]
    return [graph for graph in GRAPHS if graph in set(_graphs_of(names))]


def _graphs_of(names: Iterable[str]) -> list[Graph]:
    return [next(graph for beginning, graph in _PLACES if re.match(beginning, name)) for name in names]


def _require_same_model(speech: "LoadedModel", folder: Path) -> None:
    file = folder / "streaming_config.json"
    theirs = read_json(file, dict[str, Any], ExportError)
    for key, own in streaming_config(speech).items():
        if theirs.get(key) != own:
            raise ExportError(f"{file}: {key} is {theirs.get(key)}, not {own}: it is of another model than {speech.checkpoint.model_id}")
