//! ABI version and the proof that the layouts are what both sides believe.

use crate::*;
use core::mem::{align_of, size_of};

/// Part of the pin directory's name. Raise it when a map's layout *or the meaning of a field* changes:
/// old pins then stay untouched beside the new ones.
pub const ABI_VERSION: u32 = 4;

macro_rules! sizes {
    ($($t:ty = $size:expr, align $align:expr;)*) => { $(
        const _: () = assert!(size_of::<$t>() == $size);
        const _: () = assert!(align_of::<$t>() == $align);
    )* };
}

sizes! {
    A4 = 4, align 4;
    A6 = 16, align 4;
    SvcKey<A4> = 8, align 4;
    SvcKey<A6> = 20, align 4;
    Svc = 32, align 4;
    Backend<A4> = 12, align 4;
    Backend<A6> = 24, align 4;
    FlowKey<A4> = 16, align 4;
    FlowKey<A6> = 40, align 4;
    IndexLine = 64, align 8;
    Flow<A4> = 128, align 4;
    Flow<A6> = 192, align 4;
    Hop = 20, align 4;
    Iface = 36, align 4;
    Config = 284, align 4;
    RangeKey<A4> = 12, align 4;
    RangeKey<A6> = 24, align 4;
    AffinityKey = 24, align 4;
    Affinity = 12, align 4;
    FragKey<A4> = 16, align 4;
    FragKey<A6> = 40, align 4;
    FragPorts = 8, align 4;
    SockKey = 32, align 4;
    Sock = 32, align 4;
    Bucket = 8, align 4;
}

#[cfg(feature = "user")]
mod pod {
    use crate::*;
    macro_rules! pods { ($($t:ty),*) => { $(
        // SAFETY: `#[repr(C)]`, made of integers only, and free of padding (sizes asserted above).
        unsafe impl aya::Pod for $t {}
    )* } }
    pods!(
        A4,
        A6,
        SvcKey<A4>,
        SvcKey<A6>,
        Svc,
        Backend<A4>,
        Backend<A6>,
        FlowKey<A4>,
        FlowKey<A6>,
        IndexLine,
        Hop,
        Flow<A4>,
        Flow<A6>,
        Iface,
        Config,
        RangeKey<A4>,
        RangeKey<A6>,
        AffinityKey,
        Affinity,
        FragKey<A4>,
        FragKey<A6>,
        FragPorts,
        SockKey,
        Sock,
        Bucket
    );
}
