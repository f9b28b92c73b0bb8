"""What runs the processes: Ray, the places of parts on a cluster, precision, event loops, child processes."""
