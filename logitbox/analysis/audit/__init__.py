"""Audit: convict a metric, or clear it."""
