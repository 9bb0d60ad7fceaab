"""auto_search.log: a line for each thing that happens, and everything passed on."""

import re

from disttune.report.search_log import SearchLog
from tests.report.results import result, trial
from tests.report.test_console import opening


class Heard:
    """Keeps the names of the calls, and warnings."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


def test_the_log_has_stages_trials_notes_and_the_end_in_plain_lines(tmp_path):
    heard = Heard()
    log = SearchLog(heard, lambda: tmp_path / "auto_search.log")
    best = trial(0, 0.93)
    log.opened(opening(n_resumed=2))
    log.noted("auto search: 32 combinations\n  32 of them distinct")
    log.stage_opened("auto search")
    log.committed(best, best)
    log.committed(trial(1), best)
    log.warned("slow disk")
    log.finished(result(best, best=best), "best.onnx")

    lines = (tmp_path / "auto_search.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines] == [
        "auto search of /runs/first, 4 rank(s), at most 12 trials, 2 trials already measured; "
        "baseline top1 0.95, goal >= 0.9405",
        "auto search: 32 combinations 32 of them distinct",
        "stage: auto search",
        f"trial 0: 0.93 meets the goal, 0.250 s; {best.candidate}",
        "the best so far: trial 0",
        f"trial 1: failed: raised, 0.250 s; {trial(1).candidate}",
        "warning: slow disk",
        "goal met (goal) after 1 min 15 s: trial 0, best.onnx",
    ]
    assert [call[0] for call in heard.calls] == [
        "opened", "noted", "stage_opened", "committed", "committed", "warned", "finished",
    ]  # fmt: skip


def test_nothing_is_written_before_the_run_directory_is_known_to_be_ours(tmp_path):
    heard = Heard()
    SearchLog(heard, lambda: tmp_path / "auto_search.log").phase("starting ranks")
    assert list(tmp_path.iterdir()) == []
    assert heard.calls == [("phase", "starting ranks")]


def test_a_log_that_cannot_be_written_is_told_once(tmp_path):
    heard = Heard()
    log = SearchLog(heard, lambda: tmp_path / "none" / "auto_search.log")
    log.opened(opening())
    log.noted("more")
    assert [call[0] for call in heard.calls] == ["warned", "opened", "noted"]
    assert "No such file or directory" in heard.calls[0][1]
