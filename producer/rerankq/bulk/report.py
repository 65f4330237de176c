"""How a run or a dry run is told at its end: a table for people."""

from rerankq.bulk.dry_run import Findings
from rerankq.bulk.evaluate import Verdict
from rerankq.bulk.progress import clock
from rerankq.bulk.run import Summary

Facts = list[tuple[str, str]]


def summary_facts(summary: Summary) -> Facts:
    """Name and value, line by line."""
    resumed = f", {summary.resumed_rows:,} of them by an earlier run" if summary.resumed_rows else ""
    lines: Facts = [
        ("output", summary.output),
        ("jobs", f"{summary.rows:,}{resumed}"),
        ("failed", _failed(summary)),
        *[("", reason) for reason in summary.reasons],
        ("pairs", f"{summary.pairs:,}, {summary.pairs_per_second:,.0f} a second"),
        ("tokens", f"{summary.tokens:,}"),
        ("cut documents", f"{summary.truncated_documents:,}"),
        ("known already", f"{summary.cached_pairs:,} pairs"),
        ("time", clock(summary.seconds)),
        ("model", summary.model),
    ]
    return [*lines, *quality_facts(summary)]


def finding_facts(findings: Findings) -> Facts:
    """Name and value, line by line."""
    mean = findings.estimated_tokens / findings.pairs if findings.pairs else 0.0
    pace = f"{findings.pairs_per_second:,.0f} pairs a second ({findings.pace_from})"
    return [
        ("format", findings.format),
        ("jobs", f"{findings.rows:,}"),
        ("would fail", f"{findings.failed:,}"),
        *[("", reason) for reason in findings.reasons],
        ("pairs", f"{findings.pairs:,}"),
        ("tokens", f"about {findings.estimated_tokens:,}, {mean:.0f} a pair"),
        ("cut documents", f"about {findings.truncated_documents:,}"),
        ("judged jobs", f"{findings.judged_rows:,}"),
        ("time", f"about {clock(findings.estimated_seconds)} at {pace}"),
    ]


def quality_facts(verdict: Verdict) -> Facts:
    """Name and value, line by line; none where nothing was judged nor asked to be."""
    level = "" if verdict.relevant_from == 1 else f", grade {verdict.relevant_from} and up"
    measures = [("ndcg", "nDCG@10"), ("mrr", f"MRR@10{level}")] if verdict.judged_queries else []
    means = [(shown, _means(name, verdict)) for name, shown in measures]
    return [*means, *(("judged", note) for note in verdict.notes)]


def _failed(summary: Summary) -> str:
    if not summary.failed:
        return "0"
    kinds = ", ".join(f"{count:,} {name}" for name, count in sorted(summary.failures.items()))
    where = "" if summary.errors is None else f"; in {summary.errors}, --retry-errors asks them again"
    return f"{summary.failed:,} ({kinds}){where}"


def _means(name: str, verdict: Verdict) -> str:
    means, of_all = verdict.quality, verdict.quality_with_missing
    before = f"{means[f'{name}_before']:.4f} before, " if f"{name}_before" in means else ""
    after = f"{means[f'{name}_after']:.4f} after, over {verdict.judged_queries:,} judged jobs"
    complete = f"; {of_all[f'{name}_after']:.4f} with the missing as 0" if verdict.missing_queries else ""
    return f"{before}{after}{complete}"
