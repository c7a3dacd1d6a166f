"""What the doctor knows: one file a subject."""
