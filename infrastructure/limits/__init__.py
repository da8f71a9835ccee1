"""How much a tenant, a subject and an API key may do: requests and tokens in a minute, replies and followers at once, tokens in a month.

    limiter     one per process: the counts of everybody who sent something, and an Allowance for each request
    window      the last minute, as one process counts it
    requests, tokens, concurrent    what this process knows of one count, and what it asks Redis for
    shared_counts   the one task that asks Redis, for all counts at once (window.lua, concurrent.lua)
    month       tokens in a calendar month, in Postgres

What all processes count together is in Redis. A process takes requests from there in portions, and hands them out by itself, so that a request
costs no round trip. While Redis is unavailable, each process counts by itself.
"""
