//! What the benchmark's kernel programs and `fairway-bench` share: map types and names.
//!
//! A *restoring prologue* writes a whole header over the frame before each run of the program under test, since
//! `BPF_PROG_TEST_RUN` with `repeat` gives it the same, already rewritten frame again. The header is one base
//! header ([`Control::base`]) and, for each flow, the few bytes that differ ([`Patch4`], [`Patch6`]): four flows
//! share a cache line, so that a million flows do not drown the caches in the benchmark's own data.
#![no_std]

/// `0` → [`Control`], array.
pub const CONTROL: &str = "BENCH_CONTROL";
/// flow → [`Patch4`], array.
pub const PATCHES4: &str = "BENCH_PATCHES4";
/// flow → [`Patch6`], array.
pub const PATCHES6: &str = "BENCH_PATCHES6";
/// `0` → the XDP program under test.
pub const XDP_TARGET: &str = "BENCH_XDP";
/// `0` → the tc program under test.
pub const TC_TARGET: &str = "BENCH_TC";
/// `0` → [`Sunk`], per CPU.
pub const SUNK: &str = "BENCH_SUNK";

/// Bytes of an IPv4 frame that are written: Ethernet, IPv4, TCP, or UDP with twelve bytes of payload.
pub const FRAME4: usize = 54;
/// The same of an IPv6 frame.
pub const FRAME6: usize = 74;
/// Flows at most.
pub const MAX_FLOWS: u32 = 1 << 21;

/// What a prologue or the generator does next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The flow of the next frame.
    pub next: u32,
    /// Number of flows; after the last comes the first again.
    pub count: u32,
    /// Length of the frame; a program under test may have cut or grown it.
    pub len: u32,
    /// Not 0: UDP.
    pub is_udp: u32,
    /// The header of all flows.
    pub base: [u64; 10],
}

/// What differs between IPv4 flows, as it lies in the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch4 {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Both ports.
    pub ports: u32,
    /// Header checksum.
    pub ip_csum: u16,
    /// TCP or UDP checksum.
    pub l4_csum: u16,
}

/// What differs between IPv6 flows, as it lies in the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch6 {
    /// Source address.
    pub src: [u64; 2],
    /// Destination address.
    pub dst: [u64; 2],
    /// Both ports.
    pub ports: u32,
    /// TCP or UDP checksum.
    pub l4_csum: u16,
    /// Always 0.
    pub pad: u16,
}

/// What the sink saw. The clock is read with every [`SINK_STRIDE`]th frame only, so that it costs nothing: how fast
/// frames come is the distance between the first and the last reading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sunk {
    /// Frames so far.
    pub count: u64,
    /// When the clock was first read; 0 = not yet.
    pub first_ns: u64,
    /// Frames at that time.
    pub first_count: u64,
    /// When it was read last.
    pub last_ns: u64,
    /// Frames at that time.
    pub last_count: u64,
}

/// Frames from one reading of the clock to the next; a power of two.
pub const SINK_STRIDE: u64 = 64;

const _: () = assert!(size_of::<Sunk>() == 40);
const _: () = assert!(size_of::<Control>() == 96);
const _: () = assert!(size_of::<Patch4>() == 16);
const _: () = assert!(size_of::<Patch6>() == 40);

#[cfg(feature = "user")]
mod pod {
    use super::*;
    // SAFETY: `#[repr(C)]`, made of integers only, and free of padding (sizes asserted above).
    unsafe impl aya::Pod for Control {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Patch4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Patch6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Sunk {}
}
