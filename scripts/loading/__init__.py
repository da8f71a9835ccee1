"""The parts of `scripts.load`: `sources` reads, `loader` sends (with `retrying_client`), `progress_file` remembers what was stored, `checksums` compares."""
