//! End to end: the real binary on loopback, before scripted origins, asked over raw sockets.
//!
//! One test crate, so that the harness is compiled and linked once; run one noun with `cargo test --test e2e cache::`.

mod support;

mod admin;
mod balance;
mod bodies;
mod cache;
mod cloudfront;
mod collapse;
mod collapse_faults;
mod collapse_requests;
mod cores;
mod corpus;
mod disk;
mod fair;
mod fields;
mod invalidation;
mod invalidation_log;
mod large_objects;
mod lifecycle;
mod limits;
mod memory;
mod origin_failures;
mod overload;
mod protocol_errors;
mod proxy;
mod purge_api;
mod real_programs;
mod reuse;
mod review;
mod shared_review;
mod store;
mod tls_origin;
mod tunnel;
