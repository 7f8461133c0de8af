"""What every process of `test_sharded.py` runs: FSDP2 through accelerate, on CPUs.

    accelerate launch --config_file fsdp2.yaml --num_processes 2 sharded_worker.py FOLDER DEFEND ...

accelerate goes by its FSDP settings on accelerators only; on CPUs it would wrap the model in DDP
and say nothing. `fsdp_on_cpu` takes that one decision for it. Everything after that is its own code
and the Trainer's: `fully_shard` on every layer, gradients that are reduced and cut, checkpoints
that are gathered. What a process saw of first steps goes to
`FOLDER/RANK-of-WORLD/NAME.safetensors`; then it runs `w2s DEFEND ...`.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

import distributed_worker as worker
from w2sdefense.cli.app import main
from w2sdefense.training.trainer import this_process


def fsdp_on_cpu() -> None:
    """Make every Accelerator from here on shard, as the environment asks."""
    begin = Accelerator.__init__

    def begin_sharded(self, *arguments, **settings):
        begin(self, *arguments, **settings)
        plugin = FullyShardedDataParallelPlugin()
        if self.mixed_precision != "no":
            plugin.set_mixed_precision(self.mixed_precision)
        self.state.fsdp_plugin = plugin
        for state in (self.state, PartialState()):
            state._shared_state["distributed_type"] = DistributedType.FSDP

    Accelerator.__init__ = begin_sharded


class Shares(worker.FirstStep):
    """Also keeps how many elements of every weight are here, frozen ones included."""

    def on_step_end(self, args, state, control, model=None, **rest):
        super().on_step_end(args, state, control, model=model, **rest)
        if state.global_step == 1:
            for name, weight in model.named_parameters():
                here = weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel()
                self.seen[f"share {name}"] = torch.tensor([here, weight.numel()])


def whole(seen: worker.Seen) -> worker.Seen:
    """Gather what is sharded."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).contiguous()
        for name, value in seen.items()
    }


if __name__ == "__main__":
    folder, *command = sys.argv[1:]
    fsdp_on_cpu()
    worker.FirstStep = Shares
    state = this_process()
    own = Path(folder) / f"{state.process_index}-of-{state.num_processes}"
    own.mkdir()
    llama = Path(folder) / "llama"
    save_file(whole(worker.first_step(llama, own)), own / "first.safetensors")
    sys.argv = ["w2s", *command]
    main()
