"""Record a forward pass with hooks that are removed afterwards."""

from camscope.trace.forward import Forward, Trace, record
from camscope.trace.hooks import Recording, tracing, unchanged
from camscope.trace.layout import Layout
from camscope.trace.outputs import unwrap
from camscope.trace.pytree import tensors

__all__ = ["Forward", "Layout", "Recording", "Trace", "record", "tensors", "tracing", "unchanged", "unwrap"]
