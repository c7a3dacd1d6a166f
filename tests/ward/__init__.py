"""The ward: boxes that are really broken, the doctor called to each, and what it must say first."""
