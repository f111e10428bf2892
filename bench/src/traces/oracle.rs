//! The published counts that the reference policies must give, to the last hit.
//!
//! Traces: `adaptsize`, a sample of the AdaptSize authors' web and CDN trace, and `scarab-recs`, look-ups of an e-commerce recommendation
//! service (Scarab Research), both as kept in the repository ben-manes/caffeine (Apache-2.0); `web07`, objects read for product pages
//! (headissue GmbH, Jens Wilke, CC BY 4.0). Counts were taken with code that gives all eight published miss counts of libCacheSim's test
//! trace for FIFO, LRU and SIEVE exactly. Cold start, whole trace, a cache of `floor(footprint * percent / 100)` bytes (where objects have no
//! sizes, of one byte each); what is larger than the cache is bypassed.

/// Hits, and bytes of hits where objects have sizes, of FIFO, LRU, SIEVE, S3-FIFO and Belady with bypass.
pub(super) struct Row {
    pub(super) trace: &'static str,
    pub(super) percent: u64,
    pub(super) hits: [(u64, Option<u64>); 5],
}

/// The policies of each row, in its order.
pub(super) const POLICIES: [&str; 5] = ["FIFO", "LRU", "SIEVE", "S3-FIFO", "Belady"];

const fn sized(percent: u64, hits: [(u64, u64); 5]) -> Row {
    let [fifo, lru, sieve, s3_fifo, belady] = hits;
    let hits = [
        (fifo.0, Some(fifo.1)),
        (lru.0, Some(lru.1)),
        (sieve.0, Some(sieve.1)),
        (s3_fifo.0, Some(s3_fifo.1)),
        (belady.0, Some(belady.1)),
    ];
    Row { trace: "adaptsize", percent, hits }
}

const fn counted(trace: &'static str, percent: u64, hits: [u64; 5]) -> Row {
    let [fifo, lru, sieve, s3_fifo, belady] = hits;
    Row { trace, percent, hits: [(fifo, None), (lru, None), (sieve, None), (s3_fifo, None), (belady, None)] }
}

/// Every count.
#[rustfmt::skip]
pub(super) const ROWS: [Row; 12] = [
    sized(1, [(13_261, 112_948_654), (14_021, 118_952_699), (15_210, 125_271_171), (15_738, 126_848_145), (21_852, 158_248_368)]),
    sized(5, [(17_146, 134_405_829), (18_070, 139_541_495), (20_929, 151_888_797), (21_244, 153_039_500), (26_747, 181_243_976)]),
    sized(10, [(19_033, 144_435_765), (19_983, 149_439_908), (22_406, 159_953_375), (22_690, 161_273_181), (26_747, 181_243_976)]),
    sized(25, [(22_243, 160_397_505), (23_586, 166_122_818), (24_596, 171_073_038), (24_767, 171_728_766), (26_747, 181_243_976)]),
    counted("web07", 1, [27_614, 29_797, 32_214, 32_901, 40_645]),
    counted("web07", 5, [36_443, 38_487, 40_679, 41_192, 48_504]),
    counted("web07", 10, [40_432, 42_371, 44_093, 44_453, 51_832]),
    counted("web07", 25, [46_255, 47_866, 48_867, 49_165, 55_617]),
    counted("scarab-recs", 1, [396_404, 432_172, 508_125, 524_043, 664_290]),
    counted("scarab-recs", 5, [600_709, 643_837, 670_613, 692_335, 859_717]),
    counted("scarab-recs", 10, [710_877, 754_546, 758_478, 782_151, 934_317]),
    counted("scarab-recs", 25, [855_470, 897_239, 884_459, 902_809, 986_816]),
];

/// Returns the counts of a policy, if they were published.
pub(super) fn counts(trace: &str, percent: u64, policy: &str) -> Option<(u64, Option<u64>)> {
    let row = ROWS.iter().find(|row| row.trace == trace && row.percent == percent)?;
    let at = POLICIES.iter().position(|name| *name == policy)?;
    Some(row.hits[at])
}
