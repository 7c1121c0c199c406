"""Findings as tables, figures, pages and MLflow views."""
