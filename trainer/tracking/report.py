"""`trainer report`: what a run's events tell, as one page that needs nothing else. Works while the run goes on, too."""

from pathlib import Path

from trainer.corpus.account import read_account
from trainer.errors import RunFolderError
from trainer.events import read_events
from trainer.files import write_file
from trainer.tracking.report_page import render_page
from trainer.tracking.run_story import parse_records, tell_story, values_in


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from RUN/events.jsonl and the corpus' account; the same ones give the same bytes.

    Raises RunFolderError where there are no events, StorageError where the page cannot be written.
    """
    log = run_folder / "events.jsonl"
    if not log.is_file():
        raise RunFolderError(f"{log}: no such file, so there is nothing to report; name a folder in which a run was started")
    records, num_unknown = parse_records(line for _, line in read_events(log))
    config = run_folder / "config.yaml"
    config_text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
    values = values_in(config_text)
    name = values.get("name")
    name = name if isinstance(name, str) else run_folder.resolve().name
    data = values.get("data_dir")
    account = read_account((Path(data) if isinstance(data, str) else run_folder) / "corpus")
    page = run_folder / "report.html"
    write_file(page, render_page(tell_story(records, name, config_text, num_unknown), account).encode())
    return page
