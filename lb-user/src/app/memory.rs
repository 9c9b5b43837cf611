//! Memory that a large sync needed, and nothing needs afterwards, goes back to the system.

/// A sync with this many operations leaves enough behind to be worth a look at the whole heap.
pub(super) const MANY_OPERATIONS: usize = 10_000;

/// Returns free pages of the heap. The list of a large cluster is read and compiled once in an agent's life; what
/// that took would count as used memory for good.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer; the allocator locks its own state and releases only pages that hold nothing.
    unsafe {
        libc::malloc_trim(0);
    }
}
