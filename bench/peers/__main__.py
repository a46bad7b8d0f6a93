"""`python -m bench.peers`: what would be measured, on what."""

from .versions import versions

for name, version in versions().items():
    print(f"{name}: {version}")
