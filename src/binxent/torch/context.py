"""What torch does around a call: transforms, dispatch modes, traces, export and autocast."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

# Bound once: an attribute of an attribute takes longer to find than most of these take to answer.
_transforms_active, _tracing_state = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state
_len_dispatch_stack = torch._C._len_torch_dispatch_stack
_is_key_included, _PRE_DISPATCH = torch._C._dispatch_tls_is_dispatch_key_included, torch._C.DispatchKey.PreDispatch


def in_transform() -> bool:
    """Whether torch.func or forward-mode AD is at work, which no autograd.Function of ours could see through."""
    return _transforms_active() or forward_ad._current_level >= 0


def under_dispatch_mode() -> bool:
    """Whether a mode wants to see torch's operations; those of make_fx(pre_dispatch=True) have a stack of their own."""
    return _len_dispatch_stack() > 0 or _is_key_included(_PRE_DISPATCH)


def is_watched() -> bool:
    """Whether a transform, a mode or a trace must see torch's own operations in eager code.

    It asks what the two functions above ask, without their calls, which a loss of 64 elements would feel.
    """
    return (
        _transforms_active()
        or forward_ad._current_level >= 0
        or _len_dispatch_stack() > 0
        or _is_key_included(_PRE_DISPATCH)
        or _tracing_state() is not None
    )


def is_tracing() -> bool:
    return torch.compiler.is_compiling() or _tracing_state() is not None


def is_exporting() -> bool:
    """What ``torch.compiler.is_exporting`` tells, of which Dynamo always makes True, up to torch 2.11."""
    return torch.compiler._is_exporting_flag


def is_autocast_available(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


# Dynamo asks this once and puts the answer into its graph, since up to torch 2.11 it cannot trace the question. Setting
# the attribute is what torch.compiler.assume_constant_result does, whose import costs a second.
is_autocast_available._dynamo_marked_constant = True  # type: ignore[attr-defined]
