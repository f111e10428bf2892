//! Where the bytes of a fill come from: an origin's answer, or slices on disk.
//!
//! `fill.rs` reads either in the same way. Invariant: zero bytes mean that the content is whole; content that breaks off is an error.

use aspis_storage::mapping::body::BodyWriter;

use crate::disk::Slices;
use crate::origin::OriginBody;

/// The bytes of a fill.
pub(crate) enum Source {
    /// From the origin.
    Origin(OriginBody),
    /// From disk.
    Disk(Slices),
}

/// No more bytes come from here.
pub(crate) struct Broken;

impl Source {
    /// Tells whether all of the content was read.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Source::Origin(origin) => origin.is_whole(),
            Source::Disk(slices) => slices.is_whole(),
        }
    }

    /// Tells whether there is more, and none of it is at hand.
    pub(crate) fn must_read(&self) -> bool {
        match self {
            Source::Origin(origin) => !origin.is_whole(),
            Source::Disk(slices) => slices.must_read(),
        }
    }

    /// Nothing is read for a while.
    pub(crate) fn let_go(&mut self) {
        if let Source::Disk(slices) = self {
            slices.let_go();
        }
    }

    /// What is read goes through a passage from now on, as fast as viewers take it.
    pub(crate) fn slow_down(&mut self) {
        if let Source::Disk(slices) = self {
            slices.slow_down();
        }
    }

    /// Appends content to `writer` without a copy, if it lies where it can stay. Zero: it is to be read, or whole.
    pub(crate) async fn append_to(&mut self, writer: &mut BodyWriter) -> Result<usize, Broken> {
        match self {
            Source::Origin(_) => Ok(0),
            Source::Disk(slices) => slices.append_to(writer).await,
        }
    }

    /// Reads content into `buffer`, which must not be empty. Zero: the content is whole.
    pub(crate) async fn read<B: AsMut<[u8]> + 'static>(&mut self, buffer: B) -> (Result<usize, Broken>, B) {
        match self {
            Source::Origin(origin) => {
                let (read, buffer) = origin.read(buffer).await;
                (read.map_err(|_| Broken), buffer)
            }
            Source::Disk(slices) => slices.read(buffer).await,
        }
    }
}
