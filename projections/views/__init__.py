"""The shapes of the views, and what each event writes into them. Pure: commands and queries may import this package."""
