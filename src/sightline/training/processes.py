"""The processes of a run: started by Fabric, torchrun or Slurm; they end together, and one of them says why."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.distributed.distributed_c10d import _get_default_store

from sightline.errors import SightlineError

if TYPE_CHECKING:
    from sightline.training.run import RunSettings

log = logging.getLogger("sightline")


class Stopped(KeyboardInterrupt):
    """The run has ended because it was asked to, and is saved."""


WAIT = timedelta(hours=4)  # of the other processes, while the first one validates

# What torch raises for want of memory or of another process: part of its text, and what to say instead.
LOST = (
    "processes: got no answer from another one; expected all of them to go on. See why it ended; often memory ran out."
)
TROUBLE = (
    ("DataLoader worker (pid", "workers: got '{}'; expected them to go on. Often memory ran out: lower --workers."),
    ("out of memory", "batch: got '{}'; expected room for it. Lower --batch, or take more --devices."),
    ("by peer", LOST),  # gloo
    ("remote process exited", LOST),  # NCCL
)
MAX_REASON = 160  # of what torch says, characters that are quoted
GO_ON = "The same command goes on from the last checkpoint."
STOP = threading.Event()  # somebody asked this process to end; `Run.save` does, with a checkpoint


def launch(settings: RunSettings) -> Fabric:
    """Fabric with its processes started: those of torchrun or Slurm where they are, else `devices` of its own."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    has_cuda = torch.cuda.is_available()
    accelerator = settings.accelerator if settings.accelerator != "auto" else ("cuda" if has_cuda else "cpu")
    devices = settings.devices or (torch.cuda.device_count() if accelerator == "cuda" else 1)
    num_ranks, is_cpu, is_half = devices * settings.nodes, accelerator == "cpu", settings.precision == "16-mixed"
    is_sharded = settings.strategy == "fsdp2"
    for is_unfit, sentence in (
        (not is_cpu and not has_cuda, "accelerator: got cuda; expected a GPU, which torch finds none of. Pass cpu."),
        (is_cpu and settings.sync_bn, "sync_bn: got the CPU; expected GPUs, as SyncBatchNorm needs. Leave it out."),
        (is_cpu and is_half, "precision: got 16-mixed for the CPU; expected 32-true or bf16-mixed. Pass either."),
        (is_sharded and is_half, "precision: got 16-mixed for fsdp2; expected 32-true or bf16-mixed. Pass either."),
        (is_sharded and num_ranks == 1, "strategy: got fsdp2 for one process; expected several. Leave it out."),
    ):
        if is_unfit:
            raise SightlineError(sentence)
    for environment, starter, variable in (
        (TorchElasticEnvironment, "torchrun", "WORLD_SIZE"),
        (SLURMEnvironment, "Slurm", "SLURM_NTASKS"),
    ):
        if environment.detect():
            if (started := int(os.environ[variable])) != num_ranks:
                raise SightlineError(
                    f"devices: got {devices} on {settings.nodes} nodes; expected {started} in all, which {starter} has "
                    "started. Give --devices for each node, and --nodes."
                )
            break
    strategy: Strategy | str = "auto"
    if is_sharded:
        strategy = ModelParallelStrategy(shard, data_parallel_size=num_ranks, tensor_parallel_size=1, timeout=WAIT)
    elif num_ranks > 1:
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1 x 1 kernels, whose strides mean nothing
        strategy = DDPStrategy(timeout=WAIT)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=settings.nodes,
            strategy=strategy,
            precision=settings.precision,
        )
        launched = getattr(fabric.strategy.launcher, "procs", [])
        atexit.register(end_children, launched)
        fabric.launch()
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise SightlineError(
            f"processes: got '{reason_of(error)}'; expected {devices} on each of {settings.nodes} nodes. Change "
            "--devices, --nodes, or how they are started."
        ) from error
    if children := launched.copy():
        launched.clear()  # Fabric, which watches these, kills this process too, without a word
        atexit.register(end_children, children)
        threading.Thread(target=watch, args=(children,), daemon=True).start()
    return fabric


def watch(children: list[subprocess.Popen[bytes]]) -> None:
    """Until they end. One that ends badly ends all: the others would wait for hours for its answer, if NCCL asks."""
    while None in (ends := [child.poll() for child in children]) and not any(ends):
        time.sleep(1)
    if not any(ends):
        return
    time.sleep(15)  # for those who notice, and end in order
    rank, status = next((rank, end) for rank, end in enumerate(ends, 1) if end)
    if status < 0:
        log.error(
            "error: processes: got signal %d in process %d; expected all of them to go on. Often memory ran out. %s",
            -status,
            rank,
            GO_ON,
        )
    end_children(children)
    os._exit(2)


def end_children(children: list[subprocess.Popen[bytes]]) -> None:
    """No process that Fabric started outlives this one; the first process alone writes, so there is nothing to lose."""
    for child in children:
        try:
            child.wait(timeout=3)
        except subprocess.TimeoutExpired:
            child.kill()


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2: the weights in pieces over the processes, gathered for one linear layer at a time, and the rest at once.

    Not block by block: what gathers is the call of a module, and OSTrack's eliminating blocks are entered by methods.
    """
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # no network here changes a layer's output in place
    for module in list(model.modules()):
        if type(module) is nn.Linear:
            fully_shard(module, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    return model


@contextmanager
def one_voice() -> Iterator[None]:
    """Around a whole training: of the processes that end badly the first says why, the others end in silence.

    The first interrupt or termination asks for an end after the step, the second one ends at once. What torch raises
    for want of memory or of another process becomes a `SightlineError`.
    """
    STOP.clear()
    heard = {}
    if threading.current_thread() is threading.main_thread():  # others cannot set it
        heard = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    if getattr(rank_zero_only, "rank", 0):  # as the variables of torchrun, Slurm and Fabric have it
        log.setLevel(logging.ERROR)
    try:
        yield
    except Stopped:  # in all processes at the same step
        if getattr(rank_zero_only, "rank", 0):
            raise SystemExit(130) from None
        raise
    except (SightlineError, KeyboardInterrupt, RuntimeError) as caught:
        error: BaseException = caught
        if STOP.is_set() and isinstance(caught, RuntimeError):  # a worker was terminated as well
            error = KeyboardInterrupt()
        if was_told():
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
        for sign, sentence in TROUBLE:
            if isinstance(error, RuntimeError) and sign in str(error):
                raise SightlineError(f"{sentence.format(reason_of(error))} {GO_ON}") from error
        if error is not caught:
            raise error from None
        raise
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def ask_to_stop(_number: int, _frame: object) -> None:
    if STOP.is_set():
        raise KeyboardInterrupt
    STOP.set()
    if not getattr(rank_zero_only, "rank", 0):  # past the buffers, which may be what was interrupted
        os.write(2, b"stopping after this step; once more stops at once\n")


def was_told() -> bool:
    """Whether another process has said why it ends. Asking is saying."""
    if not torch.distributed.is_initialized():
        return False
    try:
        return _get_default_store().add("sightline/told", 1) > 1
    except RuntimeError:  # the first process kept the count, and has ended
        return True


def reason_of(error: BaseException) -> str:
    """What an error says, in a line."""
    if isinstance(error, UnpicklingError):  # a page on how to trust the file
        return "what is no checkpoint, or code"
    if isinstance(error, EOFError):
        return "a file that ends too early"
    text = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".:")
    return text if len(text) < MAX_REASON else f"{text[:MAX_REASON]} ..."
