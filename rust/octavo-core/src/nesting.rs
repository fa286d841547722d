//! How deep a Lark grammar is nested, found without recursion: its parser recurses.

/// regex-syntax has the same limit for its groups, and serde_json one of 128.
const MAX_NESTING: usize = 250;

/// An error for a grammar whose brackets are nested too deep. Strings, regular expressions and comments are skipped;
/// what is inside them has limits of its own.
pub(crate) fn check_lark(text: &str) -> Result<(), String> {
    let mut depth = 0_usize;
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip(&mut bytes, b'"'),
            b'/' if bytes.peek() == Some(&b'/') => skip(&mut bytes, b'\n'),
            b'/' => skip(&mut bytes, b'/'),
            b'#' => skip(&mut bytes, b'\n'),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(format!("the grammar is nested more than {MAX_NESTING} deep"));
        }
    }
    Ok(())
}

/// Passes the next `end`, or a line's end, that has no backslash before it.
fn skip(bytes: &mut impl Iterator<Item = u8>, end: u8) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            byte if byte == end || byte == b'\n' => return,
            _ => {}
        }
    }
}
