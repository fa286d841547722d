//! Opens a tokenizer: from a `tokenizer.json`, or from one whose vocabulary lies in a GGUF file.
//!
//! The `tokenizers` crate reads a model by way of a tree of JSON values, 41 ms for SmolLM2's 49,152 tokens and 48,900
//! merges. Here BPE, which nearly every model has, is read straight from the text, and made of GGUF's lists in 14 ms.

use ahash::AHashMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokenizers::models::bpe::{BPE, BpeBuilder};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::strings::StringList;
use crate::tokenize::TokenizerError;

/// A tokenizer.json. Truncation and padding are left out: a prompt is refused, never cut in silence.
#[derive(Deserialize)]
struct Document<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct BpeModel {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Option<AHashMap<String, u32>>,
    merges: Option<Vec<Merge>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    /// The older spelling, with a space between.
    Text(String),
}

pub(crate) fn from_json(data: &[u8]) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let document: Document<'_> = parse(data)?;
    let kind: Kind = parse(document.model.get().as_bytes())?;
    let model = match kind.name.as_deref() {
        Some("BPE") => {
            let mut model: BpeModel = parse(document.model.get().as_bytes())?;
            let (vocab, merges) = (model.vocab.take(), model.merges.take());
            let (Some(vocab), Some(merges)) = (vocab, merges) else {
                return Err(TokenizerError::File("the model has no vocab or no merges".into()));
            };
            let merges: Result<_, _> = merges.into_iter().filter_map(Merge::pair).collect();
            ModelWrapper::BPE(model.build(vocab, merges?)?)
        }
        _ => parse(document.model.get().as_bytes())?,
    };
    document.assemble(model)
}

/// `document` is a tokenizer.json of a BPE model without `vocab`, and without `merges` when they are given here.
pub(crate) fn from_lists(
    document: &[u8],
    tokens: &StringList,
    merges: Option<&StringList>,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let document: Document<'_> = parse(document)?;
    let mut model: BpeModel = parse(document.model.get().as_bytes())?;
    let mut vocab = AHashMap::with_capacity(tokens.len());
    for (id, token) in (0..).zip(tokens.iter()) {
        vocab.entry(token?.to_owned()).or_insert(id);
    }
    let own = model.merges.take().unwrap_or_default();
    let merges: Result<Vec<_>, _> = match merges {
        Some(merges) => merges.iter().map(|merge| cut(merge?)).collect(),
        None => own.into_iter().filter_map(Merge::pair).collect(),
    };
    let model = model.build(vocab, merges?)?;
    document.assemble(ModelWrapper::BPE(model))
}

impl Document<'_> {
    fn assemble(self, model: ModelWrapper) -> Result<tokenizers::Tokenizer, TokenizerError> {
        if let Some(version) = self.version.filter(|version| version != "1.0") {
            return Err(TokenizerError::File(format!("unknown version '{}'", version.escape_debug())));
        }
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(self.normalizer).map_err(file_error)?;
        tokenizer.with_pre_tokenizer(self.pre_tokenizer);
        tokenizer.with_post_processor(self.post_processor);
        tokenizer.with_decoder(self.decoder);
        tokenizer.add_tokens(self.added_tokens).map_err(file_error)?;
        Ok(tokenizer)
    }
}

impl BpeModel {
    fn build(self, vocab: AHashMap<String, u32>, merges: Vec<(String, String)>) -> Result<BPE, TokenizerError> {
        // The crate's builder checks the tokens of a merge too, but indexes past its buffer when what they make is
        // longer than any token.
        let prefix = self.continuing_subword_prefix.as_ref().map_or(0, String::len);
        let longest = vocab.keys().map(String::len).max().unwrap_or(0);
        let too_long =
            |(left, right): &&(String, String)| right.len() < prefix || left.len() + right.len() > longest + prefix;
        if let Some((left, right)) = merges.iter().find(too_long) {
            return Err(wrong_merge(&format!("{left} {right}")));
        }
        let mut builder = BpeBuilder::new()
            .vocab_and_merges(vocab, merges)
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false));
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(file_error)
    }
}

impl Merge {
    /// `None` for the comment that older files begin with.
    fn pair(self) -> Option<Result<(String, String), TokenizerError>> {
        match self {
            Self::Pair(left, right) => Some(Ok((left, right))),
            Self::Text(text) if text.starts_with("#version") => None,
            Self::Text(text) => Some(cut(&text)),
        }
    }
}

/// The two tokens of a merge: the space between them is not the first character, which may be a space of the first.
fn cut(merge: &str) -> Result<(String, String), TokenizerError> {
    let first = merge.chars().next().map_or(0, char::len_utf8);
    let Some(space) = merge[first..].find(' ') else {
        return Err(wrong_merge(merge));
    };
    let (left, right) = merge.split_at(first + space);
    Ok((left.to_owned(), right[1..].to_owned()))
}

fn wrong_merge(merge: &str) -> TokenizerError {
    TokenizerError::File(format!("the merge '{}' is not made of its tokens", merge.escape_debug()))
}

fn parse<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, TokenizerError> {
    serde_json::from_slice(data).map_err(file_error)
}

fn file_error(error: impl ToString) -> TokenizerError {
    TokenizerError::File(error.to_string())
}
