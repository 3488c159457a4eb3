"""What the documentation names exists: targets, recipes, flags, links, paths, settings files; and no file names this machine."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from running import ROOT, moonshine_lora
from test_docs import CONFIGS, DOCS, in_process, just

from lora.corpora import commands
from lora.corpora.importing import FORMS
from lora.main import COMMANDS as SUBCOMMANDS
from lora.runners import experiment, real_small


def makefile_targets() -> dict[str, str]:
    return dict(re.findall(r"^([a-z-]+):.*?## (.+)$", (ROOT / "Makefile").read_text(), re.M))


def test_every_make_target_is_described() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony is not None
    assert set(phony[1].split()) == set(makefile_targets())
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^{name}\s+\S", shown, re.M) for name in makefile_targets())


def test_every_recipe_is_described_or_passes_on_to_a_target_that_is() -> None:
    dumped = just(ROOT, "--dump", "--dump-format", "json")
    assert dumped.code == 0, dumped.err
    recipes = json.loads(dumped.out)["recipes"]
    for name, recipe in recipes.items():
        passed_on = recipe["body"] == [[f"@make {name}"]] and name in makefile_targets()
        assert recipe["doc"] or passed_on, name
    assert {"venv", "sync", "data", "run", "test", "lint", "type", "bench", "transcribe", "run-experiment"} <= recipes.keys()


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: str(doc.relative_to(ROOT)))
def test_targets_and_recipes_named_in_a_text_exist(doc: Path) -> None:
    text = doc.read_text()
    recipes = json.loads(just(ROOT, "--dump", "--dump-format", "json").out)["recipes"]
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= makefile_targets().keys()
    assert set(re.findall(r"(?:^|`)just ([a-z-]+)", text, re.M)) <= recipes.keys()


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    from lora_cli import main as app

    texts = [moonshine_lora(*name, "--help").out for name in ([], *([command] for command in SUBCOMMANDS))]
    texts += [in_process(getattr(commands, script.stem), "--help") for script in (ROOT / "scripts").glob("*.py")]
    texts += [moonshine_lora("manifest", "import", form, "--help").out for form in FORMS]
    texts += [in_process(main, "--help") for main in (experiment.main, real_small.main, app._main)]
    texts += [in_process(app._main, name, "--help") for name in app.COMMANDS]
    texts += [in_process(app._main, "history", action, "--help") for action in ("export", "clear", "corrections")]
    return set(re.findall(r"--[a-z][\w-]*", " ".join(texts)))


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: str(doc.relative_to(ROOT)))
def test_every_flag_named_in_a_text_exists(doc: Path, known_flags: set[str]) -> None:
    # Other programs have flags of their own; those of the benchmarks are looked up above.
    own = re.sub(
        r"(`|^)(uv (?!run)|(uv run )?(torchrun|accelerate|tensorboard) |pip |apt|git |sox |python benchmarks/"
        r"|bindsym |exec |systemctl )[^`\n]*",
        "",
        doc.read_text(),
        flags=re.M,
    )
    own = re.sub(r"\]\([^)]*\)", "", own)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", own)) <= known_flags


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them: a heading that comes again gets a number."""
    names = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)]
    return {f"{name}-{before}" if (before := names[:number].count(name)) else name for number, name in enumerate(names)}


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: str(doc.relative_to(ROOT)))
def test_links_and_paths_resolve(doc: Path) -> None:
    text = re.sub(r"^```.*?^```", "", doc.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, heading = link.partition("#")
        file = (doc.parent / target) if target else doc
        assert file.exists(), link
        if heading:
            assert heading in anchors(file.read_text()), link
    own = r"(?<![\w/.*-])((?:configs|src|scripts|packages|tests|benchmarks|docs|\.ci)/[\w./-]*\w)"
    for path in re.findall(own, text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: str(doc.relative_to(ROOT)))
def test_nothing_is_left_to_fill_in(doc: Path) -> None:
    assert not re.findall(r"^[A-Z]+_[A-Z_]+$|\bTODO\b|\bTBD\b|\bFIXME\b", doc.read_text(), re.M)


def test_every_config_is_documented() -> None:
    text = "".join(doc.read_text() for doc in DOCS)
    assert CONFIGS
    assert [file.name for file in CONFIGS if f"configs/{file.name}" not in text] == []


def test_the_changelog_keeps_what_is_unreleased_on_top() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M)[0] == "[Unreleased]"
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert re.search(r"^## \[Unreleased\]\n\n### \w+\n\n- \S", text, re.M)


HOSTS = (
    r"pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|registry[.]npmjs|proxy[.]golang|anaconda[.]org|(?<!\w)mirrors?[.][\w-]+[.]\w"
)
MACHINE_PATHS = r"(?<![\w.~<{*/-])/(?:home|root|work|Users)/\w"


def test_no_file_names_a_package_host_or_a_machines_folder() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if file.is_file() and file != Path(__file__):
            for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
                if re.search(f"{HOSTS}|{MACHINE_PATHS}", line):
                    found.append(f"{name}:{number}: {line.strip()}")
    assert found == []
