//! Per-core counters, histograms and log records.
