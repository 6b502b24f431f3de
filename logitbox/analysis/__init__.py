"""Dump in, tables out. Pure: no drawing, no printing, no torch."""
