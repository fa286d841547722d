//! SIMD kernels on slices for a plain CPU: paged attention, norms, rotary embedding, sampling.
