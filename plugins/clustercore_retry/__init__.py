"""Retries by category of error: a table that says what is worth another attempt, and budgets that bound how many."""

from clustercore_retry.budget import BudgetConfig
from clustercore_retry.policy import CategoryRetryPolicy
from clustercore_retry.rule import RetryRule
from clustercore_retry.table import CATEGORY_DEFAULTS, RULES

__all__ = ["CATEGORY_DEFAULTS", "RULES", "BudgetConfig", "CategoryRetryPolicy", "RetryRule"]
