"""A finished run for CI: Markdown for a summary, JUnit for a verdict, JSON and CSV for programs."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from xml.etree import ElementTree

from disttune.report import wording
from disttune.report.files import COLUMNS
from disttune.report.recorded_run import RecordedRun

_BAD = ("failed", "crashed", "timeout", "out_of_memory")
_PARETO = ("trial", "metric", "meets_goal", "size_bytes", "latency_ratio")
_COLUMNS = ("trial", "stage", "status", "metric", "meets_goal", "size_bytes", "seconds", "reason")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; what would end a cell early is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def as_markdown(run: RecordedRun) -> str:
    """Verdict, facts and all trials."""
    result, best = run.result, run.result["best"]
    sign = ">=" if run.higher_is_better else "<="
    facts: list[tuple[str, object]] = [
        ("status", f"{_words(result['status'])} ({_words(result['stop_reason'])})"),
        ("baseline metric", f"{result['baseline']['metric']:.6g}"),
        ("goal", f"{sign} {result['goal']:.6g}"),
        ("best metric", "none" if run.metric is None else f"{run.metric:.6g}"),
        ("size", _size(run)),
    ]
    if run.latency_ratio is not None:
        facts.append(("latency", f"{run.latency_ratio:.0%} of the float model's"))
    facts += [
        ("trials", result["trials"]),
        ("time", f"{wording.duration(run.seconds)} on {result['ranks']} rank(s)"),
    ]
    parts = [f"## disttune: {run.name}", markdown_table(("", ""), facts)]
    if best is not None:
        parts.append(f"Best: trial {best['trial']}.")
    parts.append(markdown_table(_COLUMNS, ([row[c] for c in _COLUMNS] for row in run.rows)))
    parts += [*_pareto_front(run), *_sensitivity(run)]
    return "\n\n".join(parts) + "\n"


def _pareto_front(run: RecordedRun) -> list[str]:
    """The trials that no other beats in everything, in a table; nothing where that is one or none."""
    numbers = {str(number) for number in run.result.get("pareto", ())}
    rows = [row for row in run.rows if row["trial"] in numbers]
    if len(rows) < 2:
        return []
    rows.sort(key=lambda row: (int(row["size_bytes"] or 0), int(row["trial"])))
    columns = [c for c in _PARETO if any(row[c] for row in rows)]
    return [
        "Pareto front of metric, size, latency and ops in float, the smallest model first:",
        markdown_table(columns, ([row[c] for c in columns] for row in rows)),
    ]


def _sensitivity(run: RecordedRun) -> list[str]:
    """What each precision of ops alone does, in a table; nothing where it was not measured."""
    found = run.result.get("sensitivity", ())
    if not found:
        return []
    rows = ((", ".join(row["ops"]), row["precision"], f"{row['loss']:.3g}") for row in found)
    return [
        "Sensitivity: error of outputs, or loss of the metric, with these ops changed alone; worst first:",
        markdown_table(("ops", "precision", "loss"), rows),
    ]


def as_junit(run: RecordedRun) -> str:
    """One test case for the goal; one for each trial, skipped where it has no metric."""
    suite = ElementTree.Element(
        "testsuite",
        name=f"disttune {run.name}",
        tests=str(len(run.rows) + 1),
        failures=str(int(not run.goal_met)),
        skipped=str(sum(row["status"] in _BAD for row in run.rows)),
        time=f"{run.seconds:.3f}",
    )
    verdict = ElementTree.SubElement(suite, "testcase", classname="disttune", name="accuracy goal")
    if not run.goal_met:
        found = "no trial has a metric" if run.metric is None else f"the best metric is {run.metric:.6g}"
        message = f"{_words(run.result['status'])}: the goal is {run.result['goal']:.6g}, {found}"
        ElementTree.SubElement(verdict, "failure", message=message)
    for row in run.rows:
        name = f"trial {row['trial']} ({row['stage']})"
        case = ElementTree.SubElement(
            suite, "testcase", classname="disttune.trials", name=name, time=row["seconds"]
        )
        if row["status"] in _BAD:
            ElementTree.SubElement(case, "skipped", message=f"{row['status']}: {row['reason']}")
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def as_json(run: RecordedRun) -> str:
    """Everything of result.json, and the rows of the trial table as `table`."""
    return json.dumps({**run.result, "table": [dict(row) for row in run.rows]}, indent=2) + "\n"


def as_csv(run: RecordedRun) -> str:
    """The trial table."""
    text = io.StringIO()
    columns = list(run.rows[0]) if run.rows else COLUMNS
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.rows)
    return text.getvalue()


FORMATS: dict[str, Callable[[RecordedRun], str]] = {
    "markdown": as_markdown,
    "junit": as_junit,
    "json": as_json,
    "csv": as_csv,
}


def _size(run: RecordedRun) -> str:
    size = wording.size(None if run.size_bytes is None else int(run.size_bytes))
    return f"{size} (float model {wording.size(run.result['baseline'].get('size_bytes'))})"


def _words(status: object) -> str:
    return str(status).replace("_", " ")


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
