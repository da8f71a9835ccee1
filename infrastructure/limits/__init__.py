"""How much a tenant, a subject and an API key may do.

  limiter     the counts of each tenant, subject and key in one process
  allowance   what one request may use
  bursts      requests in a second, in one process alone
  window      what was used in the last minute, as one process counts it
  requests, tokens, concurrent    what this process knows of one count
  shared_counts   the one task that asks Redis
  month       tokens in a calendar month, in Postgres

Redis has the counts of all processes. While Redis is unavailable, each process counts alone.
"""
