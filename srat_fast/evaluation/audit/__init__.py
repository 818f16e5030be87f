"""Is a robust accuracy to be believed? Checks with figure, threshold and verdict."""

from srat_fast.evaluation.audit.run import audit_run
from srat_fast.evaluation.audit.verdict import audit, summary

__all__ = ["audit", "audit_run", "summary"]
