"""Rebuilds views from the log while users read them.

1. Each view to rebuild gets a second build: an empty collection, and positions of its own. The positions of the second
   build of `items` have the view name `items+`.
2. Several processes backfill the second build, up to where the log ended when the rebuild started.
3. The projectors advance the second build like any view, until it reaches the position of the live view.
4. The two collections are compared document by document.
5. The swap exchanges the two collections in one transaction.

The old collection is kept for a rollback until the next rebuild starts, or until `--cancel` drops it. An interrupted
rebuild resumes where it stopped. A view that was not started, or lacks a position, has no second build.
`scripts/rebuilding/steps.py` empties this view, and projectors fill it.
"""
