"""A thread's alternate signal stack, read and set with sigaltstack(2)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Stack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@dataclass(frozen=True)
class SignalStack:
    """The stack on which a thread's signal handlers run; `address` None means its usual stack."""

    address: int | None
    flags: int
    size_bytes: int

    @classmethod
    def of_this_thread(cls) -> SignalStack:
        """Return the calling thread's."""
        stack = _Stack()
        assert _LIBC.sigaltstack(None, ctypes.byref(stack)) == 0
        return cls(stack.sp, stack.flags, stack.size)

    def install(self) -> None:
        """Make this the calling thread's stack."""
        stack = _Stack(self.address, self.flags, self.size_bytes)
        assert _LIBC.sigaltstack(ctypes.byref(stack), None) == 0, ctypes.get_errno()
