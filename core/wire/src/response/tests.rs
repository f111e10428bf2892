//! Table tests of response heads, by section of RFC 9112.
