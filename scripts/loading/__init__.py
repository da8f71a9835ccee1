"""The parts of `scripts.load`.

`sources` reads conversations. `loader` sends them with `retrying_client`. `progress_file` remembers what was stored.
`checksums` compares the source with the stores.
"""
