"""The report's sections: each gathers what its template of the same name shows."""
