"""Tables, figures and a page from the records of runs; imports no torch."""
