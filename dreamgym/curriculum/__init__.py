"""The curriculum: which tasks are dreamed next, and which of the invented ones live on."""
