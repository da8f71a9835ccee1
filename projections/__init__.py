"""From events to views. `views/` says what each event writes, and the projector writes it."""
