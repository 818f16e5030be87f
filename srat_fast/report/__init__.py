"""Reports: records enter, tables leave; imports no torch."""
