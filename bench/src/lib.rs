//! Drives the product from outside: criterion, load, the floor, peers, soak.
