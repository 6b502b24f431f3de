"""Figures, token views and the HTML report. Imports analyses and the reading side of dumps, never torch."""
