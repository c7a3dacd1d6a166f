"""From facts to a report: outcomes, causes before symptoms, advice. Pure: no clock, no file, no subject."""
