//! Small tokenizers of each kind, written here so that no fixture is needed.

use std::sync::Arc;

use octavo_text::Tokenizer;
use serde_json::{Map, Value, json};

/// The first of the special tokens of every tokenizer here: `<|end|>`.
pub const END: &str = "<|end|>";

fn tokenizer(model: Value, pre_tokenizer: Value, decoder: Value, specials: &[&str]) -> Arc<Tokenizer> {
    let first = model["vocab"].as_object().map_or(0, Map::len);
    let added: Vec<Value> = specials
        .iter()
        .enumerate()
        .map(|(index, content)| {
            json!({
                "id": first + index, "content": content, "special": *content == END, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "added_tokens": added, "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "post_processor": null, "decoder": decoder, "model": model,
    });
    Arc::new(Tokenizer::from_json(file.to_string().as_bytes()).expect("the file is valid"))
}

fn bpe(vocab: Vec<String>, merges: &[(&str, &str)], byte_fallback: bool) -> Value {
    let vocab: Map<String, Value> = vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": byte_fallback, "ignore_merges": false,
        "vocab": vocab, "merges": merges,
    })
}

/// GPT-2's alphabet: printable characters stand for themselves, the other bytes follow from U+0100.
fn alphabet() -> Vec<String> {
    let mut others = 0x100..;
    (0u32..256)
        .map(|byte| match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte,
            _ => others.next().unwrap(),
        })
        .map(|code| char::from_u32(code).unwrap().to_string())
        .collect()
}

/// Token ids below 256 are the bytes; then merges (one makes half a character), then added tokens.
pub fn byte_level() -> Arc<Tokenizer> {
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("ð", "Ł"), ("Ã", "©")];
    let mut vocab = alphabet();
    vocab.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    tokenizer(bpe(vocab, &merges, false), byte_level.clone(), byte_level, &[END, "<tool call>", "<｜begin▁of｜>"])
}

/// As Llama 2 has it: `<0x00>` to `<0xFF>` are ids 0 to 255.
pub fn sentencepiece() -> Arc<Tokenizer> {
    let mut vocab: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    vocab.extend(["▁", "h", "i", "hi", "▁hi", "é", "▁▁"].map(String::from));
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    let pre_tokenizer = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    tokenizer(bpe(vocab, &[("h", "i"), ("▁", "hi"), ("▁", "▁")], true), pre_tokenizer, decoder, &[END])
}

/// As BERT has it: a token's text depends on where it stands.
pub fn word_piece() -> Arc<Tokenizer> {
    let vocab = json!({"[UNK]": 0, "play": 1, "##ing": 2, "##ed": 3, "we": 4, ".": 5});
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": vocab,
    });
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    tokenizer(model, json!({"type": "Whitespace"}), decoder, &[END])
}

/// Words a and b, and BERT's `[CLS]` (id 0) and `[SEP]` (id 1) around the texts of a prompt.
pub fn cross_encoder() -> Arc<Tokenizer> {
    let special = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let (cls, sep) = (special("[CLS]", 0), special("[SEP]", 0));
    let file = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing", "single": [cls, text("A", 0), sep],
            "pair": [cls, text("A", 0), sep, text("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [0], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [1], "tokens": ["[SEP]"]},
            },
        },
        "model": {"type": "WordLevel", "unk_token": "[CLS]", "vocab": {"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3}},
    });
    Arc::new(Tokenizer::from_json(file.to_string().as_bytes()).expect("the file is valid"))
}
