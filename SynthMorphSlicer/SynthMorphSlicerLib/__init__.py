"""Everything of SynthMorph that knows Slicer: MRML, Qt and VTK.  The networks live in ``synthmorph_torch``."""

MODULES = ("parameters", "environment", "worker_client", "installing", "scene", "segments", "maps", "measures", "job",
           "subject", "signing", "logic", "workbench", "views", "tables", "shortcuts", "side_by_side", "comparisons",
           "kept", "curve", "printing", "surfaces", "review", "setup_section", "import_section", "review_section",
           "examine_section", "landmark_section", "compare_section", "panel", "selftest")
"""All modules of this package, each after those it imports: the order in which Reload refreshes them."""
