//! Finds out that a choice has begun to repeat itself.
//!
//! For each length p of a pattern it counts how many tokens in a row equal the one p places before. A pattern of p
//! tokens has come `count` times when that are p * (count - 1). So a token costs one comparison a length.

use std::collections::VecDeque;

/// Lengths of patterns, in tokens, and how many times one must come in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RepeatLimits {
    pub shortest: usize,
    pub longest: usize,
    pub count: u32,
}

#[derive(Debug)]
pub(crate) struct RepeatFinder {
    limits: RepeatLimits,
    /// The newest tokens, newest first, at most `longest`.
    recent: VecDeque<u32>,
    /// For each length from the shortest on.
    matches: Vec<usize>,
}

impl RepeatFinder {
    pub fn new(limits: RepeatLimits) -> Self {
        let matches = vec![0; limits.longest + 1 - limits.shortest];
        Self { limits, recent: VecDeque::with_capacity(limits.longest), matches }
    }

    /// Whether `token` completes a pattern as often as it may come.
    pub fn push(&mut self, token: u32) -> bool {
        let mut found = false;
        for (index, run) in self.matches.iter_mut().enumerate() {
            let length = self.limits.shortest + index;
            *run = if self.recent.get(length - 1) == Some(&token) { *run + 1 } else { 0 };
            found |= *run >= length * (self.limits.count as usize - 1);
        }
        self.recent.truncate(self.limits.longest - 1);
        self.recent.push_front(token);
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repeats(tokens: &[u32], limits: RepeatLimits) -> bool {
        (limits.shortest..=limits.longest).any(|length| {
            let total = length * limits.count as usize;
            tokens.len() >= total
                && tokens[tokens.len() - total..].windows(length + 1).all(|window| window[0] == window[length])
        })
    }

    proptest! {
        #[test]
        fn equals_a_look_at_all_tokens(
            tokens in prop::collection::vec(0u32..3, 0..60),
            shortest in 1usize..4,
            more in 0usize..4,
            count in 2u32..5,
        ) {
            let limits = RepeatLimits { shortest, longest: shortest + more, count };
            let mut finder = RepeatFinder::new(limits);
            for (index, &token) in tokens.iter().enumerate() {
                prop_assert_eq!(finder.push(token), repeats(&tokens[..=index], limits));
            }
        }
    }
}
