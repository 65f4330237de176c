"""Sums over a run, kept with its position so that a resumed run goes on counting."""

from pydantic import BaseModel, Field

from rerankq.contract.errors import RerankError
from rerankq.contract.messages import Ranking

SHOWN_REASONS = 5


class Quality(BaseModel):
    """Sums of nDCG@10 and MRR@10 over the judged queries."""

    rows: int = 0
    """Rankings looked at, judged or not."""
    queries: int = 0
    failed: int = 0
    """Judged, but without a ranking; in no sum."""
    unordered: int = 0
    """Judged queries of which nobody knows in what order their candidates came."""
    matched: int = 0
    """Judged queries with a judged document in their ranking."""
    unread: int = 0
    """Rows with judgements in no form that is known."""
    ndcg_before: float = 0.0
    ndcg_after: float = 0.0
    mrr_before: float = 0.0
    mrr_after: float = 0.0

    def means(self) -> dict[str, float]:
        """Over all judged queries; before only where it is known of all."""
        before = () if self.unordered else ("ndcg_before", "mrr_before")
        names = (*before, "ndcg_after", "mrr_after")
        return {name: getattr(self, name) / self.queries for name in names} if self.queries else {}

    def add(self, other: "Quality") -> None:
        """Count these too."""
        for name in Quality.model_fields:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Totals(BaseModel):
    """What has been done so far."""

    rows: int = 0
    """Rows with a ranking or an error."""
    failed: int = 0
    pairs: int = 0
    tokens: int = 0
    cached_pairs: int = 0
    truncated_documents: int = 0
    failures: dict[str, int] = Field(default_factory=dict)
    """Failed rows by the error's name."""
    reasons: list[str] = Field(default_factory=list)
    """Of the first rows that failed."""
    quality: Quality = Field(default_factory=Quality)

    def count(self, place: int, ended_in: Ranking | RerankError) -> None:
        """Count the row in this place."""
        self.rows += 1
        if isinstance(ended_in, Ranking):
            for name in ("pairs", "tokens", "cached_pairs", "truncated_documents"):
                setattr(self, name, getattr(self, name) + getattr(ended_in.usage, name))
            return
        name = type(ended_in).__name__
        self.failed += 1
        self.failures[name] = self.failures.get(name, 0) + 1
        if len(self.reasons) < SHOWN_REASONS:
            self.reasons.append(f"row {place}: {ended_in.message}")

    def add(self, other: "Totals") -> None:
        """Count these too."""
        for name in ("rows", "failed", "pairs", "tokens", "cached_pairs", "truncated_documents"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, count in other.failures.items():
            self.failures[name] = self.failures.get(name, 0) + count
        self.reasons = [*self.reasons, *other.reasons][:SHOWN_REASONS]
        self.quality.add(other.quality)
