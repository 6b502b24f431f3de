"""Checks of what was logged that need no dump: inequalities that no correct metrics break, and oddities."""
