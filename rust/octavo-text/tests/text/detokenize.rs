//! Tokens and their bytes, and that a streamed text is the text of the whole.

use std::sync::Arc;

use crate::tokenizers::{END, byte_level, sentencepiece, word_piece};
use octavo_text::{Detokenizer, Tokenizer, TokenizerError};
use proptest::prelude::*;

fn pieces(tokenizer: &Arc<Tokenizer>, prompt: &[u32], ids: &[u32], skip_special_tokens: bool) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), prompt, skip_special_tokens, true);
    let mut pieces: Vec<String> = ids
        .iter()
        .map(|id| {
            let mut piece = String::new();
            detokenizer.push(*id, &mut piece);
            piece
        })
        .collect();
    let mut rest = String::new();
    detokenizer.finish(&mut rest);
    pieces.push(rest);
    pieces
}

fn id(tokenizer: &Tokenizer, token: &str) -> u32 {
    tokenizer.token_id(token).unwrap()
}

#[test]
fn text_goes_to_tokens_and_back() {
    let tokenizer = byte_level();
    // The file's truncation to five tokens is off.
    let text = "hello world, héllo 👋 <|end|>";
    let ids = tokenizer.encode(text, true).unwrap();
    assert!(ids.len() > 5);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello world, héllo 👋 ");
    assert_eq!(tokenizer.vocab_size(), 256 + 7 + 3);
    assert_eq!(tokenizer.token(id(&tokenizer, "Ġw")).as_deref(), Some("Ġw"));
    assert_eq!(tokenizer.token(9999), None);
    assert_eq!(tokenizer.decode(&[1, 9999], true), Err(TokenizerError::UnknownToken(9999)));
    assert_eq!(tokenizer.token_bytes(9999), Err(TokenizerError::UnknownToken(9999)));
}

#[test]
fn tokens_have_their_exact_bytes() {
    let tokenizer = byte_level();
    for byte in 0..=255 {
        assert_eq!(tokenizer.token_bytes(u32::from(byte)).unwrap(), [byte]);
    }
    let bytes = |token: &str| tokenizer.token_bytes(id(&tokenizer, token)).unwrap();
    assert_eq!(bytes("hello"), b"hello");
    assert_eq!(bytes("Ġw"), b" w");
    assert_eq!(bytes("ðŁ"), [0xf0, 0x9f]);
    assert_eq!(bytes(END), END.as_bytes());
    assert_eq!(bytes("<tool call>"), b"<tool call>");
    assert_eq!(bytes("<｜begin▁of｜>"), "<｜begin▁of｜>".as_bytes());

    let tokenizer = sentencepiece();
    let bytes = |token: &str| tokenizer.token_bytes(id(&tokenizer, token)).unwrap();
    assert_eq!(bytes("<0xE2>"), [0xe2]);
    assert_eq!(bytes("▁hi"), b" hi");
    assert_eq!(bytes("é"), "é".as_bytes());
    assert_eq!(bytes(END), END.as_bytes());
}

#[test]
fn what_is_no_tokenizer_is_an_error() {
    let files: [&[u8]; 5] = [b"", b"{}", b"\xff\xfe", b"[1, 2]", br#"{"model": {"type": "BPE"}}"#];
    for data in files {
        assert!(matches!(Tokenizer::from_json(data), Err(TokenizerError::File(_))));
    }
}

#[test]
fn an_incomplete_character_is_held_back_and_no_more() {
    let tokenizer = byte_level();
    let wave = [id(&tokenizer, "ðŁ"), 0x91, 0x8b];
    assert_eq!(pieces(&tokenizer, &[], &wave, true), ["", "", "👋", ""]);
    assert_eq!(pieces(&tokenizer, &[], &wave[..2], true), ["", "", "\u{fffd}"]);
    assert_eq!(pieces(&tokenizer, &[], &[0xf0, 0x61, 0xff], true), ["", "\u{fffd}a", "\u{fffd}", ""]);
}

#[test]
fn special_tokens_are_shown_only_if_asked() {
    let tokenizer = byte_level();
    let end = id(&tokenizer, END);
    let tool = id(&tokenizer, "<tool call>");
    assert_eq!(pieces(&tokenizer, &[], &[0x61, end, tool], true).concat(), "a<tool call>");
    assert_eq!(pieces(&tokenizer, &[], &[0x61, end, tool], false).concat(), "a<|end|><tool call>");
    // A character goes on behind a special token which is skipped.
    assert_eq!(pieces(&tokenizer, &[], &[0xc3, end, 0xa9], true).concat(), "é");
    // A model's vocabulary may be larger than the tokenizer's.
    assert_eq!(pieces(&tokenizer, &[], &[0x61, 99_999, 0x62], true).concat(), "ab");
}

#[test]
fn sentencepiece_answers_continue_their_prompt() {
    let tokenizer = sentencepiece();
    let hi = id(&tokenizer, "▁hi");
    assert_eq!(pieces(&tokenizer, &[hi], &[hi, hi], true), [" hi", " hi", ""]);
    let ids = [hi, 0xc3, 0xa9, 0xe2, 0x82, hi, 0xff];
    assert_eq!(pieces(&tokenizer, &[hi], &ids, true), [" hi", "", "é", "", "", "\u{fffd}\u{fffd} hi", "\u{fffd}", ""]);
    assert_eq!(pieces(&tokenizer, &[hi], &[0xe2, 0x82], true), ["", "", "\u{fffd}\u{fffd}"]);
}

#[test]
fn texts_that_depend_on_their_neighbours_are_streamed_with_a_window() {
    let tokenizer = word_piece();
    let prompt = tokenizer.encode("we play", true).unwrap();
    let ids = tokenizer.encode("playing we played .", true).unwrap();
    assert_eq!(ids, [1, 2, 4, 1, 3, 5]);
    let pieces = pieces(&tokenizer, &prompt, &ids, true);
    assert_eq!(pieces, [" play", "ing", " we", " play", "ed", ".", ""]);
}

#[test]
fn a_decoder_that_puts_spaces_between_tokens_can_leave_them_out_between_special_ones() {
    let tokenizer = word_piece();
    let end = id(&tokenizer, END);
    for (spaces, text) in [(true, " play <|end|> <|end|> we"), (false, " play <|end|><|end|> we")] {
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), &[4], false, spaces);
        let mut out = String::new();
        [1, end, end, 4].into_iter().for_each(|token| detokenizer.push(token, &mut out));
        assert_eq!(out, text);
    }
}

proptest! {
    #[test]
    fn byte_level_pieces_are_the_text_of_the_whole(
        ids in prop::collection::vec(prop_oneof![3 => 0u32..266, 1 => 0xc0u32..0xff, 1 => 256u32..266], 0..40),
        skip_special_tokens: bool,
    ) {
        let tokenizer = byte_level();
        let streamed = pieces(&tokenizer, &[], &ids, skip_special_tokens).concat();
        prop_assert_eq!(streamed, tokenizer.decode(&ids, skip_special_tokens).unwrap());
    }

    #[test]
    fn texts_come_back_from_every_kind(text in "[hié 👋漢]{0,12}") {
        for tokenizer in [byte_level(), sentencepiece()] {
            let prompt = tokenizer.encode("hi", true).unwrap();
            let ids = tokenizer.encode(&text, true).unwrap();
            let streamed = pieces(&tokenizer, &prompt, &ids, true).concat();
            // SentencePiece puts a space before a text.
            prop_assert_eq!(streamed.strip_prefix(' ').unwrap_or(&streamed), text.strip_prefix(' ').unwrap_or(&text));
        }
    }
}
