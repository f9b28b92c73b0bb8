"""Where a run keeps its trajectories: the files of each stage that writes some."""

TRAJECTORIES = {
    "collect": "data/train.parquet",
    "heldout": "data/heldout.parquet",
    "annotate": "data/annotated.parquet",
    "train": "train/trajectories/*.parquet",
    "real": "real/trajectories/*.parquet",
}
"""Where a run keeps trajectories, by the stage that writes them; `collect` sets `heldout` aside to measure on."""
