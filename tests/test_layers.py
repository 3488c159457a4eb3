"""Imports are the architecture: they point up one list of modules, and only `model.loading` knows Moonshine's classes."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lora"

ARCHITECTURE = (SOURCE.parents[1] / "docs" / "architecture.md").read_text()
_TABLE = ARCHITECTURE.split("## The packages of `src/lora`")[1].split("\nIn the packages:")[0]
ORDER = tuple(re.findall(r"^\| `(\w+)` \|", _TABLE, re.MULTILINE))
"""Packages and modules directly below `lora`, as the architecture lists them: each imports from those above it only."""

TORCH_FREE = (
    *("errors", "units", "language", "presets", "config", "console", "consistency", "publish", "display", "main"),
    *("audio", "text", "dataset", "corpora", "runs", "report", "runtimes", "scoring", "synthesis"),
    *("system.artifacts", "system.process", "system.terminal", "system.signals", "system.documents", "system.destination", "system.files"),
    *("system.locking", "system.clearing", "system.cache"),
    *("checkpoints.wheels", "checkpoints.provenance", "checkpoints.model_folder", "model.transcript", "live"),
    *("training.augment", "export.agreement", "serving.command", "serving.sockets", "serving.metrics", "sweep.space", "sweep.command"),
)
"""Packages and modules that start without torch, transformers or peft, so that `--help`, manifests and settings answer at once."""

FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
HEAVY = {"torch", "transformers", "peft", "accelerate"}


def layer(module: str) -> str:
    return module.split(".")[0]


@cache
def imports(file: Path, *, top_level_only: bool = False) -> frozenset[str]:
    """Full names of what a file imports; of `from a import b` both `a` and `a.b`."""
    tree, found = ast.parse(file.read_text()), set[str]()
    type_checking = {id(node) for branch in ast.walk(tree) if _is_type_checking(branch) for node in ast.walk(branch)}
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in type_checking:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            assert node.module
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_imports(file: Path, *, top_level_only: bool = False) -> set[str]:
    """The package's modules among a file's imports, without `lora.`."""
    names = {name.removeprefix("lora.") for name in imports(file, top_level_only=top_level_only) if name.startswith("lora.")}
    return {name for name in names if name in MODULES}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_a_module_has_its_place_and_imports_only_from_above(module: str) -> None:
    assert layer(module) in ORDER, f"{module} has no place in ORDER"
    place = ORDER.index(layer(module))
    for name in own_imports(MODULES[module]):
        assert layer(name) in ORDER, f"{name} has no place in ORDER"
        assert layer(name) == layer(module) or ORDER.index(layer(name)) < place, f"{module} imports {name}, which is below it"


def test_the_architecture_names_every_module() -> None:
    inner = ARCHITECTURE.split("\nIn the packages:")[1].split("## The packages of `packages/lora-cli`")[0]
    named = {name for row in re.findall(r"^\| (`[^|]*) \|", inner, re.MULTILINE) for name in re.findall(r"`(\w+\.\w+)`", row)}
    explained_as_one = {"corpora", "runtimes", "report", "runners", "export"}
    modules = {".".join(name.split(".")[:2]) for name in MODULES if "." in name and layer(name) not in explained_as_one}
    assert modules | {"export.agreement"} == named
    assert set(ORDER) == {layer(name) for name in MODULES} - {"__init__"}


def test_the_layout_stays_flat_enough_to_be_learned() -> None:
    above = {
        name: {layer(other) for module in MODULES if layer(module) == name for other in own_imports(MODULES[module])} for name in ORDER
    }
    levels: dict[str, int] = {}
    for name in ORDER:
        levels[name] = 1 + max((levels[other] for other in above[name] - {name}), default=0)
    assert max(levels.values()) <= 12
    assert len(list(SOURCE.glob("*.py"))) <= 22


def test_no_imports_go_round_in_circles() -> None:
    waiting = {module: own_imports(file) - {module} for module, file in MODULES.items()}
    while free := {module for module, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {module: needed for module, needed in waiting.items() if module not in free}
    assert waiting == {}


def test_the_package_itself_imports_nothing_of_its_own_before_it_is_asked() -> None:
    assert own_imports(MODULES["__init__"], top_level_only=True) == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module: str) -> None:
    assert importlib.import_module(f"lora.{module}" if module != "__init__" else "lora")


def test_only_the_loader_names_moonshine_classes() -> None:
    classes = re.compile(r"\bMoonshine(?!OnnxModel)(Streaming)?[A-Z]\w*|transformers\.models\.moonshine")
    naming = {module for module, file in MODULES.items() if classes.search(file.read_text())}
    assert naming == {"model.loading"}


def test_what_a_layer_of_transformers_looks_like_is_known_in_one_module() -> None:
    """Beside the modules that hold such layers without transformers, and those that read or write files with the same names in them."""
    inside = re.compile(r"\b(self_attn|encoder_attn|[qkvo]_proj|fc[12]|post_attention_layernorm|final_layernorm|activation_fn)\b")
    naming = {module for module, file in MODULES.items() if inside.search(file.read_text())}
    assert naming == {"model.parts", "model.bare", "checkpoints.packaged", "export.gguf_file", "export.official"}


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) in TORCH_FREE or module in TORCH_FREE])
def test_modules_that_answer_at_once_do_not_load_torch(module: str) -> None:
    """Followed through every import that is made when the module is loaded."""
    pending, seen = [module], set[str]()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        outside = {name.split(".")[0] for name in imports(MODULES[current], top_level_only=True)}
        assert not outside & HEAVY, f"{module} loads {sorted(outside & HEAVY)} by way of {current}"
        pending += own_imports(MODULES[current], top_level_only=True)


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) in ("model", "scoring", "evaluation", "training")])
def test_the_model_side_knows_no_command_line_and_no_report(module: str) -> None:
    names = set(imports(MODULES[module]))
    assert not names & {"argparse", "rich", "sys"}
    assert not {layer(name) for name in own_imports(MODULES[module])} & {"console", "report", "display"}


def test_training_never_sees_how_test_sets_are_made() -> None:
    assert not own_imports(MODULES["training.loop"]) & {"dataset.manifest", "training.sets", "pipeline.stages"}
    assert not {layer(name) for name in own_imports(MODULES["training.loop"])} & {"dataset", "corpora", "pipeline"}
