"""Servers that others wrote, with our network in them: what they answer, and what that takes, beside ours."""

from benchmarks.peers.roster import contenders

__all__ = ["contenders"]
