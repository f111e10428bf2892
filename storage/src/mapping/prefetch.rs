//! Asks the processor for memory ahead of its use: a hit on a response that was not looked at lately would wait for head and body, one after
//! the other, and both are known before either is needed.

/// Bytes that the processor fetches at once.
const LINE_LEN: usize = 64;
/// Lines asked for; by then the processor sees by itself that more will follow.
const LINE_COUNT: usize = 4;

/// Asks for the first lines at `place`, whatever is there. It neither waits nor fails.
#[inline]
pub(crate) fn prefetch(place: *const u8) {
    for line in 0..LINE_COUNT {
        prefetch_line(place.wrapping_add(line * LINE_LEN));
    }
}

/// Asks for the line at `place` alone.
#[inline]
pub(crate) fn prefetch_line(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // JUSTIFICATION: the language has no safe word for it.
        // SAFETY: a prefetch is a hint: it gives nothing to the program and does not fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
