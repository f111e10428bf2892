//! The disk tier's decisions over a simulated disk: what was written is found again, whatever fails and whenever the process dies.

mod damage;
mod model;
mod reclaim;
mod resize;
mod simulated;
mod speed;
mod trial;
mod volume;
