"""The parts of `scripts.load`: `sources` reads, `loader` sends, `progress_file` remembers what was stored, `checksums` compares."""
