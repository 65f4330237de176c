"""`--dry-run`: read and validate everything, count it, estimate tokens and time. Sends nothing; asks for the pace."""

from dataclasses import dataclass, field

from rerankq.bulk.evaluate import read_qrels
from rerankq.bulk.output.totals import SHOWN_REASONS
from rerankq.bulk.plan import Plan
from rerankq.bulk.rows import Entry, name_of_row, place_of
from rerankq.bulk.sending.asking import validated
from rerankq.bulk.sending.pack_sender import bulk_workers
from rerankq.bulk.task import Task
from rerankq.client import RerankClient
from rerankq.contract.errors import BrokerUnavailable
from rerankq.estimates import amount_of

H100_PAIRS_PER_SECOND = 1_569.0  # published for this model: padded bf16, NQ lengths


@dataclass(slots=True)
class Findings:
    """What a dry run found."""

    format: str
    rows: int = 0
    failed: int = 0
    pairs: int = 0
    """Estimated where documents are read in windows."""
    estimated_tokens: int = 0
    truncated_documents: int = 0
    """Estimated."""
    judged_rows: int = 0
    bytes_read: int = 0
    reasons: list[str] = field(default_factory=list[str])
    """Of the first rows that would fail."""
    estimated_seconds: float = 0.0
    pairs_per_second: float = 0.0
    """The pace that the estimate takes for granted."""
    pace_from: str = ""
    """Whose it is."""

    def count(self, entry: Entry) -> None:
        """One more row."""
        self.rows += 1
        self.bytes_read += entry.row.size_bytes
        if entry.request is None:
            self.failed += 1
            if len(self.reasons) < SHOWN_REASONS:
                self.reasons.append(f"row {place_of(entry)}: {entry.error}")
            return
        amount = amount_of(entry.request)
        self.pairs += amount.pairs
        self.estimated_tokens += amount.tokens
        self.truncated_documents += amount.truncated_documents


def dry_run(task: Task, client: RerankClient, pairs_per_second: float | None = None) -> Findings:
    """What the task amounts to, at this pace, else that of the workers that are there, else that of one H100."""
    plan, options = Plan(task), {name: value for name, value in task.options.items() if name != "model"}
    qrels = None if task.qrels is None else read_qrels(task.qrels)
    pace, pace_from = (pairs_per_second, "as given") if pairs_per_second else _measured(client)
    findings = Findings(format=plan.read_as.name, pairs_per_second=pace, pace_from=pace_from)
    for position, row in enumerate(plan.rows()):
        entry = validated(position, row, client, options)
        findings.count(entry)
        findings.judged_rows += bool(row.relevant if qrels is None else qrels.get(name_of_row(entry)))
    findings.estimated_seconds = findings.pairs / pace
    return findings


def _measured(client: RerankClient) -> tuple[float, str]:
    """Pairs a second of the bulk workers together, and whose they are."""
    try:
        workers = bulk_workers(client)
    except BrokerUnavailable:
        return H100_PAIRS_PER_SECOND, "one H100's; no Redis answers"
    paces = [worker.pairs_per_second for worker in workers if worker.pairs_per_second]
    if not paces:
        return H100_PAIRS_PER_SECOND, f"one H100's; none of {len(workers)} workers has measured its own"
    return sum(paces), f"of late by {len(paces)} of {len(workers)} workers together"
