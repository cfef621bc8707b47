"""Take steps with the learned optimizer of CHECKPOINT in a process of several, on a model wrapped by HOW; save to OUT.

The processes see halves of a batch; ``whole`` sees all of it.
"""

import os
import sys

import torch
from torch import distributed, nn

from meta_opt import LearnedOptimizer, MetaOptError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1, bias=False)).double()


def whole(param):
    return param.full_tensor() if hasattr(param, "full_tensor") else param


def main(checkpoint, how, out):
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo")
    net = model()
    if how == "ddp":
        net = nn.parallel.DistributedDataParallel(net)
    elif how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (size,))
        fully_shard(net[0], mesh=mesh)
        fully_shard(net, mesh=mesh)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    share = slice(None) if how == "whole" else slice(8 * rank // size, 8 * (rank + 1) // size)
    try:
        optimizer = LearnedOptimizer(net.parameters(), checkpoint=checkpoint)
    except MetaOptError as error:
        if rank == 0:
            print(f"refused: {error}")
        return
    for number in range(6):
        if number == 3:  # as after a restart of the job
            saved, optimizer = optimizer.state_dict(), LearnedOptimizer(net.parameters(), checkpoint=checkpoint)
            optimizer.load_state_dict(saved)
        optimizer.zero_grad()
        (net(inputs[share]) - inputs[share].sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    params = [whole(param).detach() for param in net.parameters()]
    if rank == 0:
        torch.save(params, out)
    distributed.barrier()  # nobody goes while another still talks to it
    del net, optimizer, params  # what holds on to the group, whose threads must end before the process
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that end with the interpreter sometimes abort it
