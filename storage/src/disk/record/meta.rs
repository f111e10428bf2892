//! The facts of a stored response as a record has them: one version byte, flags, then numbers as short as they are.
//!
//! Times stand as distances: of the receipt from the record's own time, of the generation from the receipt.

use aspis_cache::stored::{Part, StaleIfError, StoredMeta};

use super::super::bytes::{Put, Take};

/// The encoding; a fact more or less, or of another meaning, is another.
const VERSION: u8 = 1;

const NO_CACHE: u8 = 1;
const FORBIDS_STALE: u8 = 1 << 1;
const TARGETED: u8 = 1 << 2;
const PART: u8 = 1 << 3;
const ERROR_UNSTATED: u8 = 1 << 4;
const ERROR_WITHIN: u8 = 1 << 5;
const KNOWN: u8 = NO_CACHE | FORBIDS_STALE | TARGETED | PART | ERROR_UNSTATED | ERROR_WITHIN;

/// Writes the facts of a record of this time.
pub(super) fn put(meta: &StoredMeta, created: u32, put: &mut Put<'_>) {
    // Every field by name: one that is added does not compile until it is written.
    let StoredMeta {
        status,
        generated_at,
        received_at,
        initial_age,
        lifetime,
        no_cache,
        stale_while_revalidate,
        stale_if_error,
        forbids_stale,
        targeted,
        part,
    } = *meta;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let on_error = match stale_if_error {
        StaleIfError::Forbidden => 0,
        StaleIfError::Unstated => ERROR_UNSTATED,
        StaleIfError::Within(_) => ERROR_WITHIN,
    };
    let flags = flag(no_cache, NO_CACHE)
        | flag(forbids_stale, FORBIDS_STALE)
        | flag(targeted, TARGETED)
        | flag(part.is_some(), PART)
        | on_error;
    put.bytes(&[VERSION, flags]);
    put.varint(status.into());
    put.distance(received_at, created.into());
    put.distance(generated_at, received_at);
    put.varint(initial_age.into());
    put.varint(lifetime.into());
    put.varint(stale_while_revalidate.into());
    if let StaleIfError::Within(seconds) = stale_if_error {
        put.varint(seconds.into());
    }
    if let Some(Part { start, total }) = part {
        put.varint(start);
        put.varint(total);
    }
}

/// Reads them; `None` if they are in an encoding that this build does not know.
pub(super) fn take(created: u32, take: &mut Take<'_>) -> Option<StoredMeta> {
    let (version, flags) = (take.u8()?, take.u8()?);
    if version != VERSION || flags & !KNOWN != 0 {
        return None;
    }
    let status = take.varint()?.try_into().ok()?;
    let received_at = take.distance(created.into())?;
    let generated_at = take.distance(received_at)?;
    let (initial_age, lifetime, stale_while_revalidate) =
        (take.varint32()?, take.varint32()?, take.varint32()?);
    let stale_if_error = match flags & (ERROR_UNSTATED | ERROR_WITHIN) {
        0 => StaleIfError::Forbidden,
        ERROR_UNSTATED => StaleIfError::Unstated,
        ERROR_WITHIN => StaleIfError::Within(take.varint32()?),
        _ => return None,
    };
    let part =
        if flags & PART == 0 { None } else { Some(Part { start: take.varint()?, total: take.varint()? }) };
    Some(StoredMeta {
        status,
        generated_at,
        received_at,
        initial_age,
        lifetime,
        no_cache: flags & NO_CACHE != 0,
        stale_while_revalidate,
        stale_if_error,
        forbids_stale: flags & FORBIDS_STALE != 0,
        targeted: flags & TARGETED != 0,
        part,
    })
}
