"""From events to views: `read_models.py` says what each event writes, the runner writes it. Nothing here is the truth."""
