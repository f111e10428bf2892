//! RFC 9111 and RFC 9110 caching questions, one per file.
