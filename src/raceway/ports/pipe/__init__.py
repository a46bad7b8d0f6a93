"""Pipes: two ends, one region, no server. `sync` moves slots; `rendezvous` is how the ends find each other."""
