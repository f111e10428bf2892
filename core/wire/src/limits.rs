//! The limits of everything this crate reads, each with a name and a default.
//!
//! The daemon may lower them; nothing may raise them above what the fixed-size [`FieldSlots`] hold.
//!
//! [`FieldSlots`]: crate::FieldSlots

/// The most fields that a head can have: the size of [`FieldSlots`](crate::FieldSlots).
pub const FIELD_SLOTS: usize = 128;

/// The most fields of a header section that is remembered ([`KnownSections`](crate::request::KnownSections)). Browsers send up to twenty.
pub const KNOWN_FIELDS_MAX: usize = 24;

/// The longest header section that is remembered, with its empty line.
pub const KNOWN_SECTION_LEN_MAX: usize = 1_024;

/// The default of [`HeadLimits::head_len_max`] (H-16 for requests, H-10 for responses).
pub const HEAD_LEN_MAX: usize = 32_768;

/// The default of [`HeadLimits::target_len_max`] (H-15).
pub const TARGET_LEN_MAX: usize = 8_192;

/// The longest method that is read; more is 501 (RFC 9112 section 3).
pub const METHOD_LEN_MAX: usize = 32;

/// The most empty lines that are skipped before a request line (RFC 9112 section 2.2 asks for one at least).
pub const EMPTY_LINES_MAX: usize = 2;

/// The most options that the `Connection` fields of one head may name. It bounds the work of removing them.
pub const CONNECTION_OPTIONS_MAX: usize = 64;

/// The default of [`HeadLimits::trailer_len_max`].
pub const TRAILER_LEN_MAX: usize = 8_192;

/// The default of [`HeadLimits::chunk_extension_len_max`].
pub const CHUNK_EXTENSION_LEN_MAX: usize = 256;

/// The default of [`HeadLimits::chunk_overhead_max`].
pub const CHUNK_OVERHEAD_MAX: usize = 16_384;

/// The longest host name of an authority, in bytes (RFC 1035 section 2.3.4 allows 253 and a final dot).
pub const HOST_LEN_MAX: usize = 255;

// A request line of the longest target must fit into a head, or 414 could never be told from 431.
const _: () = assert!(TARGET_LEN_MAX + METHOD_LEN_MAX + 64 < HEAD_LEN_MAX);

/// What a head and a chunked content may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of request or status line and fields with their final empty line. Default 32,768 (H-16, H-10).
    pub head_len_max: usize,
    /// Bytes of the request's URL, scheme and host included. Default 8,192 (H-15).
    pub target_len_max: usize,
    /// Fields of a head, at most [`FIELD_SLOTS`]. Default 128.
    pub field_count_max: usize,
    /// Bytes of the trailer section after the last chunk. Default 8,192.
    pub trailer_len_max: usize,
    /// Bytes of one chunk's extensions. Default 256.
    pub chunk_extension_len_max: usize,
    /// Bytes of chunk lines that may arrive beyond what the data pays for: each byte of data pays for two,
    /// each chunk for sixteen. It stops a sender of long extensions on tiny chunks. Default 16,384.
    pub chunk_overhead_max: usize,
}

impl HeadLimits {
    /// The defaults, usable in constants.
    pub const DEFAULT: Self = Self {
        head_len_max: HEAD_LEN_MAX,
        target_len_max: TARGET_LEN_MAX,
        field_count_max: FIELD_SLOTS,
        trailer_len_max: TRAILER_LEN_MAX,
        chunk_extension_len_max: CHUNK_EXTENSION_LEN_MAX,
        chunk_overhead_max: CHUNK_OVERHEAD_MAX,
    };
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
