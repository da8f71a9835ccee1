"""The parts of `scripts.load`.

`sources` reads conversations. `loader` sends them with `retrying_client`. `progress_file` remembers what was stored.
`checksums` makes the checksums of the source, the log and MongoDB.
"""
