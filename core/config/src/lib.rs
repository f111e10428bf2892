//! The settings table, checked values and compiled behaviors.
