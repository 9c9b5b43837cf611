//! Loads and stores at packet offsets: plain in the kernel (the JITs we run on allow unaligned access), unaligned on
//! the host, where anything else would be undefined behaviour.

/// Reads a `T` at `p + off`.
///
/// # Safety
/// `p + off .. + size_of::<T>()` must lie inside memory that was bounds-checked by the caller.
#[inline(always)]
pub unsafe fn rd<T: Copy>(p: *const u8, off: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe {
        let q = p.add(off) as *const T;
        if cfg!(target_arch = "bpf") { *q } else { q.read_unaligned() }
    }
}

/// Writes a `T` at `p + off`.
///
/// # Safety
/// As for [`rd`], and the memory must be writable.
#[inline(always)]
pub unsafe fn wr<T: Copy>(p: *mut u8, off: usize, v: T) {
    // SAFETY: the caller's promise.
    unsafe {
        let q = p.add(off) as *mut T;
        if cfg!(target_arch = "bpf") {
            *q = v
        } else {
            q.write_unaligned(v)
        }
    }
}
