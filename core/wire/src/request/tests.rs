//! Table tests of request heads, by section of RFC 9112.
