"""Everything of SynthMorph that knows Slicer: MRML, Qt and VTK.  The networks live in ``synthmorph_torch``."""

MODULES = ("parameters", "environment", "worker_client", "stages", "installing", "job", "scene", "segments",
           "maps", "measures", "subject", "signing", "logic", "workbench", "structures", "volumes", "atlases",
           "moving", "transferring", "views", "tables", "shortcuts", "side_by_side", "comparisons", "kept", "curve",
           "output_nodes", "printing", "surfaces", "review", "device_section", "ticked_section", "setup_section",
           "import_section", "review_section", "examine_section", "landmark_section", "compare_section",
           "atlas_section", "moving_section", "status", "panel", "selftest")
"""All modules of this package, each after those it imports: the order in which Reload refreshes them."""
