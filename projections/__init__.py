"""From events to views: `views/` says what each event writes into the views, and the projector writes it. The views can always be rebuilt from the log."""
