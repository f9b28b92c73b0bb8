"""What a run tells about itself: stages, metrics, statistics, processes, plots and the report."""
