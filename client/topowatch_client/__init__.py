"""topowatch's client: attach it to a training loop and the job's path is watched from outside."""

from topowatch_client.watch import Watch, attach

__all__ = ["Watch", "attach"]
