"""From events to views: `views/` says what each event writes, the projector writes it. The views can always be rebuilt from the log."""
