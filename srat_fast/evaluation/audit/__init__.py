"""Is a robust accuracy to be believed? A model and images enter; checks with figure, threshold and verdict leave."""

from srat_fast.evaluation.audit.run import audit_run
from srat_fast.evaluation.audit.verdict import audit, summary

__all__ = ["audit", "audit_run", "summary"]
