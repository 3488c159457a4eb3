"""Makes the reports of a finished run again, from its folder alone."""

from pathlib import Path

from lora.errors import RunFolderError
from lora.report.html import write_html
from lora.report.markdown import write_report
from lora.runs.record import counting_errors, read
from lora.system.artifacts import HTML_FILE, MARKDOWN_FILE
from lora.system.locking import held


def rebuild(folder: Path, audio_mb: float) -> tuple[Path, ...]:
    """Writes `report.md` and `report.html` into a run's folder and returns their paths.

    Raises `RunFolderError` when the folder holds no run, or one that did not complete and so has nothing to compare.
    """
    record = read(folder)
    if record.status != "completed":
        reason = f": {record.error}" if record.error else ""
        raise RunFolderError(f"{folder}: the run is not complete ({record.status}{reason}), so there is nothing to report; run it again")
    with held(folder), counting_errors(folder):
        write_report(record, folder / MARKDOWN_FILE)
        write_html(record, folder / HTML_FILE, audio_mb)
    return folder / MARKDOWN_FILE, folder / HTML_FILE
