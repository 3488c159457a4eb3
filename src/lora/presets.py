"""Settings files that come with the project, each by its name: `--config domain`."""

from pathlib import Path


def config_file(given: str) -> Path:
    """The preset of that name, else the path as given."""
    return presets().get(given, Path(given))


def presets() -> dict[str, Path]:
    """Every preset's file by its name."""
    return {file.stem: file for file in sorted(_folder().glob("*.toml"))}


def _folder() -> Path:
    """A wheel has them inside the package, a checkout in `configs/` at its root, which only there is beside `src/`."""
    packaged = Path(__file__).parent / "presets"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"
