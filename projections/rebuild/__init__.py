"""Rebuilds views from the log while users read them.

1. `view_builds.py` creates an empty collection for each view to rebuild, and records the build in MongoDB. The build of `items` is named `items+`.
2. `backfill.py` fills these collections, up to where the log ended when the rebuild started. Several processes do this, each for its own partitions.
3. Then the projectors advance the build like any view, until it is at the same position as the live view.
4. `compare.py` compares the two collections document by document, at that position.
5. The swap exchanges the two collections in one transaction.

Readers see the live collection until the swap and the new one after it. Both are current. The old collection is kept for a rollback
until the next rebuild starts, or until `--cancel` drops it. An interrupted rebuild resumes where it was. `rebuild.py` runs the steps; `upgrade.py` runs them when a
view's version was raised. If no projector has started a view, or one of its positions is missing, there is no
second build: `scripts/rebuilding/steps.py` empties the view, and projectors fill it.
"""
