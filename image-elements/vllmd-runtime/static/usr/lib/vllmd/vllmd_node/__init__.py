"""What a runtime node finds out by itself: its hardware, its model, and whether and how the one fits the other.

Standard library only. Every function takes the root it reads below, so that tests read captured trees.
"""

GIB = 1024**3
MIB = 1024**2


def gib(size_bytes: float) -> str:
    """Return a size for people, such as ``15.0 GiB``; small ones in MiB."""
    if abs(size_bytes) < 0.1 * GIB:
        return f"{size_bytes / MIB:.1f} MiB"
    return f"{size_bytes / GIB:.1f} GiB"
