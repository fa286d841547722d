//! Which tokens may be chosen at all, as bits.

/// Makes the logit of each token without a bit minus infinity. Tokens past the mask's end have none.
pub(super) fn apply(logits: &mut [f32], mask: &[u32]) {
    let mut words = mask.iter();
    for logits in logits.chunks_mut(32) {
        match words.next().copied().unwrap_or(0) {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                }
            }
        }
    }
}
