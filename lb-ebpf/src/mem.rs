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
        if cfg!(target_arch = "bpf") { *q = v } else { q.write_unaligned(v) }
    }
}

/// Keeps a value in memory: LLVM would take a struct apart and spill each word of it to eight bytes of BPF's stack.
#[inline(always)]
pub fn settle<T>(v: &T) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: it does nothing. An instruction there must be, or two lines of the source have one place in the program.
    unsafe {
        core::arch::asm!("{0} = {0}", in(reg) &raw const *v, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = v;
}

/// Copies a plain struct of 32-bit words, word by word: LLVM would make it a `memmove` call, which is a byte loop in a
/// subprogram on BPF.
///
/// # Safety
/// `dst` must be writable; `T` must consist of 32-bit words.
#[inline(always)]
pub unsafe fn put<T: Copy>(dst: *mut T, src: &T) {
    let (d, s) = (dst as *mut u32, src as *const T as *const u32);
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: the caller's promise; `i` stays inside `T`.
        unsafe { d.add(i).write_volatile(s.add(i).read()) };
        i += 1;
    }
}
