"""What rules log: out of the ring of samples (sampling), into a pcapng file (writer)."""
