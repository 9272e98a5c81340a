"""A run: its processes, its folder, its checkpoints. The loop itself is the recipe's.

Lightning Fabric places the model on one device, on many, or on many nodes; torchrun's and Slurm's variables are
recognised. Nothing random is kept between steps: what a step draws depends on (seed, step, process) alone, so a
checkpoint needs no generator's state and a run that goes on is the run that never stopped.

Several processes take the step that one would take of the whole batch, up to rounding, where the loss is a mean over
pairs: what is averaged is the gradients. It is not, and slightly other steps are taken, where
- the model has BatchNorm: each process counts its own part (`sync_bn`), and the first one's statistics are kept;
- paths are dropped: each process draws its own;
- a loss divides by something that varies from part to part. The focal loss divides by the positives: one a pair for
  OSTrack, but none of a centre outside the crop or of sightline-nano's absent targets, over whose number the box
  losses divide too; for MVT, whose positives are cells, more the larger the target. SPMTrack's recipe divides by the
  mean number of all processes, as official, so its step is that of one process.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.swa_utils import AveragedModel

from sightline import __version__
from sightline.errors import CheckpointError, SightlineError
from sightline.files import atomic_path
from sightline.training.feed import Batch, Examples, batches
from sightline.training.processes import STOP, Stopped, launch, reason_of

log = logging.getLogger("sightline")

LAST, ABOUT = "last.pt", "run.json"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
# A weight that no loss reached yet has no state in the optimiser.
SOME = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
STEPS_BETWEEN_CLOCKS = 10  # asking the first process what time it is takes an exchange
# What torch raises for files that are damaged, foreign or of another model.
UNREADABLE = (
    OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """What every run takes, whatever it trains."""

    out: Path | None = None
    """Folder of the run: checkpoints, logs, pictures. Several machines must share it."""
    resume: str = "auto"
    """auto goes on with the run that is in the folder, never refuses such a folder, or a checkpoint to go on from."""
    seed: int = 0
    """Of the examples, of the initial weights, and of what is dropped in training."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is cuda where there is one."""
    devices: int = 1
    """Processes on each node, one for each device; 0: a process for every GPU."""
    nodes: int = 1
    """Machines; torchrun or Slurm starts the processes."""
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """How several processes share the work: each has the whole model, or a piece of every layer."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the forward pass; weights stay in float32."""
    sync_bn: bool = False
    """BatchNorm counts the whole batch of all processes instead of each its own. GPUs only."""
    threads: int = 0
    """Threads of torch on the CPU; 0 leaves its own choice."""
    workers: int = 1
    """Processes that make examples, for each device; 0 makes them between the steps. The examples are the same."""
    skip_unreadable: bool = False
    """Pass over pictures that cannot be read, and count them, instead of stopping at the first."""
    log_steps: int = 50
    """Steps between two lines of the log."""
    save_minutes: float = 3.0
    """Minutes between two checkpoints."""
    replay: Path | None = None
    """The file that a run left when it stopped at nan: do that step alone, and say where nan begins."""


class Run:
    """The processes and the folder of one run. `setup` before the loop; `feed`, `reseed`, `guard`, `save` in it.

    `recipe` are all settings, as they are to be written down. Raises `SightlineError` for settings that do not fit
    together, and `CheckpointError` where the folder holds a run that is not the one to go on with.
    """

    def __init__(self, settings: RunSettings, recipe: object) -> None:
        self.settings, self.recipe, self.folder = settings, recipe, check_out(settings, recipe)
        self.fabric = launch(settings)
        if settings.threads:  # after Fabric's own choice
            torch.set_num_threads(settings.threads)
        self.rank, self.num_ranks, self.device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device
        self.is_first = self.rank == 0
        if not self.is_first:
            log.setLevel(logging.ERROR)  # the first process says the same
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.is_first:
                for left in self.folder.glob(".*.part.*"):  # by a process that was killed while it wrote
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise no_place(self.folder, error.strerror) from error
        self._saved_at = time.monotonic()

    def setup(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None = None
    ) -> tuple[nn.Module, torch.optim.Optimizer, int]:
        """(model to call in the loop, optimiser, step to begin at): placed, and restored from the run's checkpoint.

        average: a running mean of the weights, which is kept in the checkpoints.
        """
        if average is not None and self.settings.strategy == "fsdp2":
            raise SightlineError(
                "strategy: got fsdp2 for a recipe that averages its weights; expected ddp. Leave it out."
            )
        self.model, self.optimizer, self.average = model, optimizer, average
        names = {parameter: name for name, parameter in model.named_parameters()}
        if self.settings.sync_bn:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        wrapped = self.fabric.setup_module(self.model)
        placed = dict(self.model.named_parameters())  # FSDP2 has put pieces in the place of the parameters
        for group in optimizer.param_groups:
            group["params"] = [placed[names[parameter]] for parameter in group["params"]]
        wrapped_optimizer = self.fabric.setup_optimizers(optimizer)
        if average is not None:
            average.to(self.device)
        step = self._restore()
        if self.is_first:
            self._describe(step)
        return wrapped, wrapped_optimizer, step  # type: ignore[return-value]

    def feed(self, examples: Examples, batch: int, first_step: int) -> Iterator[Batch]:
        """This process's part of the batches from a step on."""
        return batches(
            examples,
            batch=batch,
            first_step=first_step,
            workers=self.settings.workers,
            rank=self.rank,
            num_ranks=self.num_ranks,
            device=self.device,
        )

    def reseed(self, step: int) -> None:
        """Everything that this step draws (dropped paths) depends on seed, step and process alone."""
        words = np.random.SeedSequence((self.settings.seed, step, self.rank)).generate_state(2, np.uint32)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))

    def guard(
        self, step: int, batch: Mapping[str, Tensor], losses: Mapping[str, Tensor], norm: Tensor | None
    ) -> dict[str, Tensor]:
        """Stop before a step that would spoil the weights; the losses, which are 0-dim tensors, as means over the
        processes.

        Raises `SightlineError` in all processes where a loss or the gradient's norm is no number. What the step was
        given is saved; `replay` does it again. With 16-mixed an infinite norm is passed over, as the optimiser's step
        will be, until the scale of the loss cannot be lowered further.
        """
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.num_ranks > 1:
            torch.distributed.all_reduce(values)
            values /= self.num_ranks
        means = dict(zip(losses, values, strict=True))
        if norm is not None and hasattr(norm, "full_tensor"):  # in pieces, with fsdp2
            norm = norm.full_tensor()
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        checked = values if norm is None or (scaler and scaler.get_scale() > 1) else torch.cat([values, norm[None]])
        if bool(torch.isfinite(checked).all()):
            return means
        path = self.folder / f"nan-step-{step:06d}.pt"
        model = get_model_state_dict(self.model, options=WHOLE)
        parts: list[Any] = [{name: value.cpu() for name, value in batch.items()}]
        if self.num_ranks > 1:
            parts *= self.num_ranks
            torch.distributed.all_gather_object(parts, parts[0])
        if self.is_first:
            tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            self._write(path, {"model": model, "batch": tensors, "step": step})
        got = ", ".join(f"{name} {float(value):g}" for name, value in means.items())
        raise SightlineError(
            f"training: got {got} and a gradient of norm {'unknown' if norm is None else f'{float(norm):g}'} in step "
            f"{step}; expected finite numbers. See where it begins with --replay {path}, or go on from the last "
            "checkpoint with a lower --lr."
        )

    def save(self, step: int, *, if_due: bool = True) -> bool:
        """A checkpoint of everything, atomically; `if_due` only when `save_minutes` have passed by the first process's
        clock, or when it was asked to stop, which several processes look at every tenth step. Whether there was one.

        Raises `Stopped` after it where it was asked to stop.
        """
        is_stopping = STOP.is_set() and (if_due or self.num_ranks == 1)
        if if_due:
            is_due = is_stopping or time.monotonic() - self._saved_at >= 60 * self.settings.save_minutes
            if self.num_ranks > 1:
                is_due, is_stopping = (
                    self.fabric.broadcast((is_due, is_stopping)) if step % STEPS_BETWEEN_CLOCKS == 0 else (False, False)
                )
            if not is_due:
                return False
        content: dict[str, Any] = {
            "model": get_model_state_dict(self.model, options=WHOLE),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=WHOLE),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the scale of 16-mixed
            "step": step,
            "settings": described(self.recipe),
        }
        if self.is_first:
            self._write(self.folder / LAST, content)
        self._saved_at = time.monotonic()
        if is_stopping:
            log.info("stopped at step %d, which is saved; the same command goes on from there", step)
            raise Stopped
        return True

    def weights(self) -> dict[str, Tensor]:
        """Whole, on the CPU, of the average where there is one; with fsdp2 empty in other processes than the first."""
        if self.average is not None:
            return {name: value.cpu() for name, value in self.average.module.state_dict().items()}
        return dict(get_model_state_dict(self.model, options=WHOLE))  # type: ignore[arg-type]

    def _restore(self) -> int:
        chosen, step = self.settings.resume, 0
        path, now = self.folder / LAST if chosen in ("auto", "never") else Path(chosen), described(self.recipe)
        if path.exists() or chosen not in ("auto", "never"):
            saved = read(path, ("model", "optimizer", "average", "step", "settings"))
            refuse_another(path, str(saved["settings"]), now)
            groups = self.optimizer.param_groups
            asked = [{key: value for key, value in group.items() if key != "params"} for group in groups]
            try:
                set_model_state_dict(self.model, saved["model"], options=WHOLE)
                set_optimizer_state_dict(self.model, self.optimizer, saved["optimizer"], options=SOME)
                for name, parameter in self.model.named_parameters():
                    if name not in saved["optimizer"]["state"]:  # torch has made one up
                        self.optimizer.state.pop(parameter, None)
                for group, own in zip(self.optimizer.param_groups, asked, strict=True):
                    group.update(own)  # the file has what was asked for then
                if self.average is not None:
                    self.average.load_state_dict(saved["average"])
                if state := saved.get("precision"):
                    self.fabric.strategy.precision.load_state_dict(state)
                step, before = int(saved["step"]), json.loads(saved["settings"])
            except UNREADABLE as error:
                raise CheckpointError(
                    f"checkpoint {path}: got the weights of another network, or other parts of it that learn; expected "
                    "a run of the same model and recipe. Choose another --out."
                ) from error
            changed = [
                f"{key} {before[key]} -> {value}"
                for key, value in json.loads(now).items()
                if before.get(key, value) != value
            ]
            log.info("going on at step %d of %s", step, path)
            if changed:
                log.warning("other settings than before: %s", "; ".join(changed))
        if self.num_ranks > 1 and self.fabric.broadcast(step) != step:
            raise CheckpointError(
                f"out: got {self.folder}, which process {self.rank} sees otherwise than the first one; expected a "
                "folder that all machines share. Choose another --out."
            )
        return step

    def _describe(self, step: int) -> None:
        """`run.json`: what was asked for, and by which versions."""
        content = {
            "command": sys.argv,
            "settings": json.loads(described(self.recipe)),
            "run": json.loads(described(self.settings)),
            "versions": {"sightline": __version__, "torch": torch.__version__, "numpy": np.__version__},
            "processes": self.num_ranks,
            "device": str(self.device),
            "first_step": step,
        }
        with atomic_path(self.folder / ABOUT) as part:
            part.write_text(json.dumps(content, indent=1, default=str) + "\n")

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        try:
            with atomic_path(path) as part, part.open("wb") as file:
                torch.save(dict(content), file)
                file.flush()
                os.fsync(file.fileno())  # before it takes the place of the one before
        except (SightlineError, RuntimeError) as error:
            reason: BaseException = error  # torch's writer makes a RuntimeError of what the disk said
            while (before := reason.__cause__ or reason.__context__) and not isinstance(reason, OSError):
                reason = before
            last = self.folder / LAST
            kept = f"{last} is whole" if last.exists() else "there is no checkpoint yet"
            raise CheckpointError(
                f"{path}: cannot be written: got '{reason_of(reason)}'; expected room for it. Free "
                f"some space and give the same command again ({kept})."
            ) from error


def check_out(settings: RunSettings, recipe: object) -> Path:
    """The folder of a run, before anything is opened or made.

    Raises `SightlineError` where none is named or can be, and `CheckpointError` where it holds a run that is not the
    one to go on with.
    """
    if settings.out is None:
        raise SightlineError("out: got none; expected a folder for the run. Pass --out RUN.")
    folder, last, chosen = settings.out, settings.out / LAST, settings.resume
    whole = folder.absolute()
    there = next(path for path in (whole, *whole.parents) if os.path.exists(path))
    if not there.is_dir():
        raise no_place(folder, os.strerror(errno.ENOTDIR))
    if not os.access(there, os.W_OK | os.X_OK):
        raise no_place(folder, os.strerror(errno.EACCES))
    if chosen not in ("auto", "never") and not Path(chosen).exists():
        raise CheckpointError(
            f"resume: got {chosen}, which is no file; expected auto, never or a checkpoint. Check it."
        )
    if not last.exists():
        return folder
    if chosen != "auto" and Path(chosen).resolve() != last.resolve():
        raise CheckpointError(
            f"out: got {folder}, which holds a run; expected a free folder with --resume {chosen}. "
            "Choose another, or go on with --resume auto."
        )
    if (about := folder / ABOUT).is_file():  # far smaller than the checkpoint, which is asked again
        refuse_another(last, about.read_text(errors="replace"), described(recipe))
    return folder


def no_place(folder: Path, reason: str | None) -> SightlineError:
    return SightlineError(f"out: cannot make {folder}: got '{reason}'; expected a place for it. Choose another.")


def refuse_another(path: Path, before: str, now: str) -> None:
    """`CheckpointError` where settings, as JSON, name another model than those of now; some name none."""
    theirs, ours = model_in(before), model_in(now)
    if theirs and ours and theirs != ours:
        raise CheckpointError(
            f"checkpoint {path}: got a run of {theirs}; expected one of {ours}. Choose another --out."
        )


def model_in(text: str) -> str:
    """The model that settings, or a `run.json`, name; "" where they name none or are damaged."""
    try:
        told = json.loads(text)
        return str(told.get("settings", told)["model"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""


def described(settings: Any) -> str:
    """Settings as JSON; of those of the run itself, what makes it another run."""
    fields = dataclasses.asdict(settings)
    run = fields.pop("run", {})
    return json.dumps(fields | {key: run[key] for key in ("seed", "precision") if key in run}, default=str)


def read(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """What a run has written, on the CPU; runs none of its code. Raises `CheckpointError` for anything else."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        missing = [key for key in keys if not isinstance(saved, dict) or key not in saved]
        if missing:
            raise ValueError(f"no {missing[0]!r} in it")
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path}: got {reason_of(error)}; expected a file that a run has written whole. Check the path."
        ) from error
    return dict(saved)


def replay(path: Path, model: nn.Module, loss_of: Callable[[dict[str, Tensor]], Tensor]) -> list[str]:
    """Do the step again that a run stopped at, on the CPU in float32; a line for each of the first things that are no
    number: weights, the batch, modules in the order that they ran in, gradients. The last line has the loss.

    Raises `CheckpointError` for another file.
    """
    saved = read(path, ("model", "batch", "step"))
    try:
        model.load_state_dict(saved["model"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"replay {path}: got {reason_of(error)}; expected a nan-step-*.pt of this model. Check the path."
        ) from error
    lines: list[str] = []

    def note(what: str, *values: Any) -> None:
        if any(isinstance(value, Tensor) and not torch.isfinite(value).all() for value in values):
            lines.append(f"not finite: {what}")

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            note(f"what {name or 'the model'} makes", *(output if isinstance(output, tuple) else (output,)))

        return look

    for name, tensor in model.state_dict().items():
        note(f"weights {name}", tensor)
    for name, tensor in saved["batch"].items():
        note(f"batch {name}", tensor)
    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    loss = loss_of(saved["batch"])
    for handle in handles:
        handle.remove()
    if not lines and loss.isfinite():
        loss.backward()
        for name, parameter in model.named_parameters():
            note(f"gradient of {name}", parameter.grad)
    found = lines[:10] or ["all is finite here, in float32 on the CPU"]
    return [*found, f"step {saved['step']}: loss {float(loss.detach()):g}"]
