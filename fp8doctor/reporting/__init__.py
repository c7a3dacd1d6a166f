"""A report, and nothing else, becomes text: terminal, Markdown; secrets become placeholders first."""
