//! Stored responses in memory: budget, arena, fill buffers, RAM tier.
