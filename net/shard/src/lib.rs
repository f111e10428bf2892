//! What runs on each core: listener, viewer side, origin side.
