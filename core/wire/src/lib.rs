//! HTTP messages and HTTP/1.1 framing for both sides, without I/O.
