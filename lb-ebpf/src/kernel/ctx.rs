//! Reading a program's context: in assembly, because LLVM likes to keep `context + offset` in a register of its own, and
//! the verifier takes no load from a context pointer that was moved.

/// The 32-bit word at `OFF` of the context, zero-extended.
///
/// # Safety
/// `ctx` must be the program's context, with a readable word at `OFF`.
#[inline(always)]
pub unsafe fn word<const OFF: usize, T>(ctx: *const T) -> u64 {
    let v: u64;
    // SAFETY: the caller's promise. Not `pure`: a helper may have moved what the word tells, so it is read each time.
    unsafe {
        core::arch::asm!(
            "{v} = *(u32 *)({p} + {off})",
            v = out(reg) v,
            p = in(reg) ctx,
            off = const OFF,
            options(nomem, nostack),
        );
    }
    v
}
