"""What `scripts.load` is made of: `sources` reads, `loader` sends, `finished` remembers, `check` compares."""
