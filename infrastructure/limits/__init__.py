"""How much a tenant, a subject and an API key may do: requests in a second, requests and tokens in a minute, replies and followers at once, tokens in a month.

    limiter     one per process: the counts of each tenant, subject and key that sent something
    allowance   what one request may use
    answer_headers, refusals    what the client is told about its limits
    bursts      requests in a second, in one process alone
    window      how much was used in the last minute, as one process counts it
    requests, tokens, concurrent    what this process knows of one count, and what it asks Redis for
    shared_counts   the one task that asks Redis, for all counts at once (window.lua, concurrent.lua)
    month       tokens in a calendar month, in Postgres

The counts of all processes together are in Redis. A process takes a portion of requests from Redis, and then allows these requests without
asking again. So most requests need no round trip. While Redis is unavailable, each process counts by itself.
"""
