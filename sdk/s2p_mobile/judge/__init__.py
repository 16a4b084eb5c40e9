"""Drawing and judging pictures: one walker, evaluation, metrics, reports."""
