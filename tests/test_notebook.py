"""The notebook runs from its first cell to its last in an environment that knows the project as a wheel only."""

import json
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from clones import clone, succeeded, surroundings, uv
from nbclient import NotebookClient
from running import ROOT

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
UPDATES = 4
"""Instead of an epoch: enough for every cell to have something to show, too few for the verdict to be known."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment in which pip has installed the wheel; what it depends on is looked up in this environment."""
    made = tmp_path_factory.mktemp("installed")
    source = clone(tmp_path_factory.mktemp("clone"))
    succeeded([uv(), "build", "--wheel", "--quiet", "--out-dir", made, source], made, surroundings())
    succeeded([sys.executable, "-m", "venv", made / "venv"], made, surroundings())
    program = made / "venv" / "bin" / "python"
    succeeded([program, "-m", "pip", "install", "--quiet", "--no-deps", *made.glob("*.whl")], made, surroundings())
    own = Path(succeeded([program, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], made, surroundings()).strip())
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = succeeded([program, "-c", "import lora; print(lora.__file__)"], made, surroundings())
    assert found.startswith(str(own)), "the wheel is found before the checkout"
    return program


def cells() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_the_notebook_runs_from_a_pip_install(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = cells()
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=1,", f"max_steps={UPDATES}, eval_interval={UPDATES},")
    assert any("max_steps" in cell.source for cell in notebook.cells)
    kernels = tmp_path / "share" / "kernels" / "installed"
    kernels.mkdir(parents=True)
    start = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernels / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "installed", "language": "python"}))
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    place = {"metadata": {"path": str(tmp_path / "work")}}
    NotebookClient(notebook, kernel_name="installed", timeout=600, resources=place).execute(env=surroundings())
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "domain WER" in said
    assert (tmp_path / "work" / "outputs" / "quickstart" / "report.html").is_file()


def test_the_notebook_holds_no_outputs() -> None:
    """They would go stale, and name the machine that made them."""
    assert not [cell for cell in cells().cells if cell.get("outputs") or cell.get("execution_count")]
