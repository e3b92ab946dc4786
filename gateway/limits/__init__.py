"""Limiters of rates. Budgets and tasks in progress are no matter of theirs: the database counts."""
