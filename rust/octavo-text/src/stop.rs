//! Stop strings over token edges.
//!
//! One Knuth-Morris-Pratt automaton a string runs over the bytes as they come. Its state is the length of the longest
//! suffix of the text that begins the string: the largest state is exactly the text which must be held back. Where the
//! text is cut does not depend on how it was split into tokens. Time is linear in the text (times the number of strings).

use std::sync::Arc;

/// The stop strings of one request, shared by its choices.
#[derive(Debug)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    /// `fallback[k]`: the longest proper suffix of the first k bytes that begins the pattern.
    fallback: Vec<u32>,
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut state = 0;
        for (index, byte) in bytes.iter().enumerate().skip(1) {
            while state > 0 && bytes[state] != *byte {
                state = fallback[state] as usize;
            }
            if bytes[state] == *byte {
                state += 1;
            }
            fallback[index + 1] = state as u32;
        }
        Self { text, fallback }
    }

    /// The state after `byte`; the pattern's length when it is complete.
    fn step(&self, state: u32, byte: u8) -> u32 {
        let bytes = self.text.as_bytes();
        let mut state = state as usize;
        if state == bytes.len() {
            state = self.fallback[state] as usize;
        }
        while state > 0 && bytes[state] != byte {
            state = self.fallback[state] as usize;
        }
        (state + usize::from(bytes[state] == byte)) as u32
    }
}

impl StopStrings {
    /// `strings` must not be empty ones.
    pub fn new(strings: Vec<String>) -> Self {
        Self { patterns: strings.into_iter().map(Pattern::new).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    pub fn get(&self, index: usize) -> &str {
        &self.patterns[index].text
    }
}

/// The search in one choice's text.
#[derive(Debug)]
pub struct StopMatcher {
    strings: Arc<StopStrings>,
    /// One a string.
    states: Vec<u32>,
    /// Text not yet given out: it may be the start of a stop string.
    held: String,
    include: bool,
}

impl StopMatcher {
    /// `include`: the text ends after the stop string instead of before it.
    pub fn new(strings: Arc<StopStrings>, include: bool) -> Self {
        Self { states: vec![0; strings.patterns.len()], strings, held: String::new(), include }
    }

    /// Takes new text and appends to `out` what is certain to be shown. `Some(index)`: a stop string is complete, `out`
    /// has the last text, and nothing may follow. The string that is complete first wins, of those the longest.
    /// Without `armed` a string that becomes complete is passed over.
    pub fn push(&mut self, text: &str, armed: bool, out: &mut String) -> Option<usize> {
        if self.states.is_empty() {
            out.push_str(text);
            return None;
        }
        let seen = self.held.len();
        self.held.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            let mut complete: Option<usize> = None;
            for (index, pattern) in self.strings.patterns.iter().enumerate() {
                self.states[index] = pattern.step(self.states[index], byte);
                let is_complete = self.states[index] as usize == pattern.text.len();
                if is_complete && complete.is_none_or(|other| pattern.text.len() > self.strings.get(other).len()) {
                    complete = Some(index);
                }
            }
            if let Some(index) = complete.filter(|_| armed) {
                let end = seen + offset + 1;
                let cut = if self.include { end } else { end - self.strings.get(index).len() };
                out.push_str(&self.held[..cut]);
                self.held.clear();
                return Some(index);
            }
        }
        let kept = self.states.iter().zip(&self.strings.patterns).map(|(state, pattern)| {
            // A complete string that was passed over is no reason to hold it back, but its own overlap is.
            let is_complete = *state as usize == pattern.text.len();
            if is_complete { pattern.fallback[*state as usize] } else { *state }
        });
        let shown = self.held.len() - kept.max().unwrap_or(0) as usize;
        out.push_str(&self.held[..shown]);
        self.held.drain(..shown);
        None
    }

    /// No text follows: what was held back is shown after all.
    pub fn flush(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], include: bool, pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let strings = Arc::new(StopStrings::new(stops.iter().map(ToString::to_string).collect()));
        let mut matcher = StopMatcher::new(strings.clone(), include);
        let mut shown = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            let found = matcher.push(piece, true, &mut out);
            shown.push(out);
            if let Some(index) = found {
                return (shown, Some(strings.get(index).to_owned()));
            }
        }
        let mut out = String::new();
        matcher.flush(&mut out);
        shown.push(out);
        (shown, None)
    }

    #[test]
    fn a_stop_string_over_token_edges_is_cut_off() {
        assert_eq!(run(&["\nUser:"], false, &["Hi", "!\n", "Us", "er", ": next"]).0.concat(), "Hi!");
        assert_eq!(run(&["\nUser:"], true, &["Hi", "!\n", "Us", "er", ": next"]).0.concat(), "Hi!\nUser:");
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        assert_eq!(run(&["</s>"], false, &["a<", "/x", "<", "</", "b"]).0, ["a", "</x", "", "<", "</b", ""]);
        assert_eq!(run(&["END"], false, &["the EN"]).0, ["the ", "EN"]);
    }

    #[test]
    fn the_first_complete_string_wins_and_then_the_longest() {
        assert_eq!(run(&["abcd", "bc"], false, &["xabcd"]), (vec!["xa".into()], Some("bc".into())));
        assert_eq!(run(&["bc", "abc"], false, &["xabc"]), (vec!["x".into()], Some("abc".into())));
        assert_eq!(run(&["zz", "b"], false, &["abzz"]), (vec!["a".into()], Some("b".into())));
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        assert_eq!(run(&["é!"], false, &["caf", "é", "ê", "é!"]).0, ["caf", "", "éê", ""]);
    }

    #[test]
    fn what_completes_unarmed_is_passed_over() {
        let strings = Arc::new(StopStrings::new(vec!["aa".into()]));
        let mut matcher = StopMatcher::new(strings, false);
        let mut out = String::new();
        assert_eq!(matcher.push("xaa", false, &mut out), None);
        assert_eq!(out, "xa");
        assert_eq!(matcher.push("a", true, &mut out), Some(0));
        assert_eq!(out, "xa");
    }

    proptest! {
        /// Against a search in the whole text: the match that ends first, the longest of those.
        #[test]
        fn equals_a_search_in_the_whole_text(
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            pieces in prop::collection::vec("[abcé]{0,4}", 0..12),
            include: bool,
        ) {
            let text = pieces.concat();
            let found = stops
                .iter()
                .filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start, stop)))
                .min_by_key(|(end, start, _)| (*end, *start));
            let expected = match found {
                Some((end, start, _)) => &text[..if include { end } else { start }],
                None => &text,
            };
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, stopped) = run(&stops, include, &pieces);
            prop_assert_eq!(shown.concat(), expected);
            prop_assert_eq!(stopped, found.map(|(_, _, stop)| stop.clone()));
            // What was shown before the end never ran into the match.
            for length in 1..pieces.len() {
                let shown = run(&stops, include, &pieces[..length]).0;
                prop_assert!(expected.starts_with(&shown[..shown.len() - 1].concat()));
            }
        }
    }
}
