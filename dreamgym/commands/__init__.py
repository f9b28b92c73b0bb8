"""What a user types, one file a command; a stage of a run is a command that leaves a record."""
