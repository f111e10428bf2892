//! The steps of one request as a pure state machine.
