"""What a process takes of a device before its first tensor, and with its first matrix product and first attention.

Run as a script, by its path, with the device's name: it needs torch alone. After each step it prints the step, the bytes that
torch's allocator has reserved, and those in use beside the tensors made so far (workspaces of libraries); then it waits for
a line, so that its parent can see what the device has left.
"""

import sys

import torch
import torch.nn.functional as F


def main(device: str) -> None:
    """Takes the steps one by one."""
    tensors: list[torch.Tensor] = []

    def say(step: str) -> None:
        reserved = workspace = 0
        if device == "cuda":
            torch.cuda.synchronize()
            reserved = torch.cuda.memory_reserved()
            workspace = torch.cuda.memory_allocated() - sum(t.numel() * t.element_size() for t in tensors)
        print(step, reserved, workspace, flush=True)
        sys.stdin.readline()

    if device == "cuda":
        torch.cuda.mem_get_info()  # makes the context, and nothing else
    say("context")
    side = 4096 if device == "cuda" else 512
    tensors.append(torch.randn(side, side, device=device).to(torch.bfloat16))
    tensors.append(tensors[0] @ tensors[0])
    say("matmul")
    heads = torch.randn(1, 32, side // 4, 128, device=device).to(torch.bfloat16)
    tensors += [heads, F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)]
    say("attention")


if __name__ == "__main__":
    main(sys.argv[1])
