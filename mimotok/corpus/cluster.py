"""Encode a corpus on a Ray cluster: a pool of actors, each of which writes whole shards on a shared file system.

Ray starts an actor that dies again, and repeats its shard under the same name. Files get their names when they are
whole, and only the driver writes the ledger, once for each shard.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimotok.corpus.encode import Finished, Options, Part, run_parts
from mimotok.corpus.ledger import Settings
from mimotok.io.terminal.streams import excerpt
from mimotok.tokenizer import Tokenizer

_TRIES = -1  # Ray's word for "as often as it takes"


class _Encoder:
    """An actor: a model and its options."""

    def __init__(self, tokenizer: Tokenizer, device: str, options: Options) -> None:
        self.tokenizer = tokenizer.to(device)
        self.options = options

    def make(self, part: Part, settings: Settings, out: Path) -> Finished:
        """Write one shard."""
        (finished,) = run_parts(self.tokenizer, self.options, [part], settings, out)
        return finished


def run_on_ray(
    tokenizer: Tokenizer, options: Options, address: str, parts: list[Part], settings: Settings, out: Path
) -> Iterator[Finished]:
    """Encode the parts on the cluster at `address`, in any order.

    Each GPU of the cluster gets an actor; without GPUs, each group of 1 + workers CPUs does.

    Raises:
        ImportError: without Ray.
        ValueError: where no cluster answers or has room for an actor, and for what an actor cannot write.
    """
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address)
    try:
        yield from _pooled(ray, tokenizer, options, parts, settings, out.resolve())
    finally:
        if mine:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("--ray needs: pip install 'mimotok[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"--ray {address}: no cluster answers ({excerpt(error)})") from error


def _pooled(
    ray: Any, tokenizer: Tokenizer, options: Options, parts: list[Part], settings: Settings, out: Path
) -> Iterator[Finished]:
    tokenizer.weights_sha256  # noqa: B018  # known before it travels: the weights' folder may not be where it goes
    # the reference stays here to the end: an actor that is started again asks for the model again
    model = ray.put(tokenizer if tokenizer.device.type == "cpu" else copy.deepcopy(tokenizer).to("cpu"))
    actors = _actors(ray, model, options, len(parts))
    waiting = list(reversed(parts))
    running = {actor.make.remote(waiting.pop(), settings, out): actor for actor in actors}
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor = running.pop(ready)
        try:
            finished = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            # what the actor raised, without the traceback that Ray puts into its text
            if isinstance(error.cause, ValueError | OSError | ImportError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise ValueError(f"the cluster gave up ({' '.join(str(error).split())[:300]}); run again") from error
        if waiting:
            running[actor.make.remote(waiting.pop(), settings, out)] = actor
        yield finished


def _actors(ray: Any, model: Any, options: Options, most: int) -> list[Any]:
    """Start at most `most` actors, as many as the cluster has room for."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    cpus = int(resources.get("CPU", 0))
    device = "cuda" if gpus else "cpu"
    each = 1 + options.workers
    room = min(gpus or cpus, cpus // each)
    if most and room < 1:
        raise ValueError(f"the cluster has {cpus} CPUs, an actor needs {each}: lower --workers")
    kind = ray.remote(_Encoder).options(
        num_cpus=each, num_gpus=1 if gpus else 0, max_restarts=_TRIES, max_task_retries=_TRIES
    )
    return [kind.remote(model, device, options) for _ in range(min(room, most))]
