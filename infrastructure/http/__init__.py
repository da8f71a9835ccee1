"""What the command API and the query API share."""
