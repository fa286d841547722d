//! Grammars: compiled and matched on threads of their own, while other requests run.
//!
//! - [`Vocabulary`]: what the tokens of the model stand for, opened when the first grammar comes
//! - [`Grammars`]: the compiled grammars, of which those used last are kept; the engine's side
//! - `Workers`: two threads. The mask of a token that is sampled next goes before all else; at most one of the threads
//!   compiles, so that a mask never waits for that. A compilation past its time loses its request and its place.
//! - [`Turn`]: a grammar after some tokens, and the mask of those that may follow
//!
//! llguidance is given no tokenizer: it never forces a token, and the model chooses among all spellings of a text.
//! Tokens that we made of a forced text could be others than those which the tokenizer makes of the whole.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, TokenParser, regex_to_lark};
use octavo_wire::{Structure, StructureKind};

use crate::nesting;
use crate::queue::Inbox;

const NUM_WORKERS: usize = 2;
/// A grammar may be nested, and its compiler recurses. Only what is touched takes memory.
const STACK_BYTES: usize = 256 << 20;
/// Compiled grammars that are kept, and the memory of their lexers.
const MAX_KEPT: usize = 128;
const MAX_KEPT_BYTES: usize = 256 << 20;
/// Grammars that may wait to be compiled.
const MAX_QUEUED: usize = 1024;
/// Longer compilations fail. FHIR's schema, the largest one around, takes less than half.
const MAX_COMPILATION: Duration = Duration::from_secs(5);
/// Threads whose compilation goes on although its request has failed; with so many nothing more is compiled.
const MAX_OVERDUE: usize = 4;
/// A lexer's state takes 1 to 2 KB.
const MAX_LEXER_STATES: usize = 50_000;
const MAX_MESSAGE: usize = 600;

/// What the tokens of a model stand for, by token id.
#[derive(Default)]
pub struct Vocabulary(Vec<Vec<u8>>);

pub type OpenVocabulary = Box<dyn FnOnce() -> Result<Vocabulary, String> + Send>;

impl Vocabulary {
    /// A token that stands for bytes of text. No text has the byte 0xff, which marks special tokens here.
    pub fn push_text(&mut self, bytes: &[u8]) {
        let word = if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { &[] } else { bytes };
        self.0.push(word.to_vec());
    }

    /// A token that no text has, such as the end of a sequence. A grammar may name it.
    pub fn push_special(&mut self, name: &str) {
        self.0.push([&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat());
    }

    /// An id without a token.
    pub fn push_hole(&mut self) {
        self.0.push(Vec::new());
    }

    fn factory(mut self, vocab_size: usize, eos_token_ids: &[u32]) -> Result<ParserFactory, String> {
        self.0.resize(vocab_size, Vec::new());
        let Some(&eos) = eos_token_ids.first() else {
            return Err("the model has no end-of-sequence token, so that no structure could end".into());
        };
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size as u32, eos), &self.0).with_eos_tokens(eos_token_ids);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|error| message(&error))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.verbose_errors = false;
        Ok(factory)
    }
}

/// A structure on its way to a grammar, or what became of it.
pub(crate) struct Compilation {
    structure: Structure,
    began: OnceLock<Instant>,
    /// The grammar before its first token.
    outcome: OnceLock<Result<Arc<Turn>, String>>,
    lexer_bytes: LexerBytes,
}

/// What a grammar's lexer takes, which grows while it is used.
type LexerBytes = Arc<AtomicUsize>;

impl Compilation {
    /// `None` while it is not done.
    pub fn outcome(&self) -> Option<&Result<Arc<Turn>, String>> {
        self.outcome.get()
    }
}

/// A grammar after some tokens.
pub struct Turn {
    lexer_bytes: LexerBytes,
    done: OnceLock<Done>,
}

struct Done {
    /// Whoever goes on last takes it, the others take a copy.
    parser: Mutex<Option<TokenParser>>,
    mask: Result<Box<[u32]>, String>,
}

impl Turn {
    /// The tokens that may follow: token i where bit i % 32 of word i / 32 is set. An error is the end of the request.
    /// Waits until a thread has worked it out.
    pub fn wait(&self) -> Result<&[u32], &str> {
        self.done.wait().mask.as_deref().map_err(String::as_str)
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Turn").field("is_done", &self.done.get().is_some()).finish_non_exhaustive()
    }
}

/// The engine's side of all grammars.
pub(crate) struct Grammars {
    workers: Arc<Workers>,
    kept: HashMap<Structure, Kept>,
    num_uses: u64,
}

struct Kept {
    compilation: Arc<Compilation>,
    used: u64,
}

impl Grammars {
    /// Threads start, and `open` is called, when the first grammar comes. `inbox` is woken when one is compiled.
    pub fn new(open: OpenVocabulary, vocab_size: u32, eos_token_ids: &[u32], inbox: Inbox) -> Self {
        let eos_token_ids: Vec<u32> = eos_token_ids.iter().copied().filter(|&token| token < vocab_size).collect();
        let open_factory = move || open()?.factory(vocab_size as usize, &eos_token_ids);
        let workers = Workers {
            queue: Mutex::default(),
            news: Condvar::new(),
            factory: OnceLock::new(),
            open: Mutex::new(Some(Box::new(open_factory))),
            inbox,
        };
        Grammars { workers: Arc::new(workers), kept: HashMap::new(), num_uses: 0 }
    }

    /// The grammar of a structure, or its compilation that has begun or begins. `None` when too many wait for theirs.
    pub fn compile(&mut self, structure: &Structure) -> Option<Arc<Compilation>> {
        self.num_uses += 1;
        if let Some(kept) = self.kept.get_mut(structure) {
            kept.used = self.num_uses;
            return Some(kept.compilation.clone());
        }
        let structure = structure.clone();
        let compilation = Arc::new(Compilation {
            structure: structure.clone(),
            began: OnceLock::new(),
            outcome: OnceLock::new(),
            lexer_bytes: LexerBytes::default(),
        });
        if !self.workers.compile(compilation.clone()) {
            return None;
        }
        self.make_room();
        self.kept.insert(structure, Kept { compilation: compilation.clone(), used: self.num_uses });
        Some(compilation)
    }

    /// Lets go of a grammar that cannot be used.
    pub fn forget(&mut self, structure: &Structure) {
        self.kept.remove(structure);
    }

    /// Fails a compilation that takes too long; another thread takes its place.
    pub fn check_time(&self, compilation: &Compilation) {
        if compilation.began.get().is_some_and(|began| began.elapsed() > MAX_COMPILATION) {
            let seconds = MAX_COMPILATION.as_secs();
            let overdue = format!("the grammar takes more than {seconds} seconds to compile");
            if compilation.outcome.set(Err(overdue)).is_ok() {
                self.workers.replace();
            }
        }
    }

    pub fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Forgets the grammars used longest ago, until one more may be kept.
    fn make_room(&mut self) {
        loop {
            let bytes: usize =
                self.kept.values().map(|kept| kept.compilation.lexer_bytes.load(Ordering::Relaxed)).sum();
            if self.kept.len() < MAX_KEPT && bytes <= MAX_KEPT_BYTES {
                return;
            }
            let Some((_, oldest)) = self.kept.iter().min_by_key(|(_, kept)| kept.used) else { return };
            let structure = oldest.compilation.structure.clone();
            self.kept.remove(&structure);
        }
    }
}

impl Drop for Grammars {
    fn drop(&mut self) {
        // Nobody joins the threads: a compilation may take its time.
        self.workers.queue().closed = true;
        self.workers.news.notify_all();
    }
}

type OpenFactory = Box<dyn FnOnce() -> Result<ParserFactory, String> + Send>;

pub(crate) struct Workers {
    queue: Mutex<Queue>,
    news: Condvar,
    factory: OnceLock<Result<ParserFactory, String>>,
    open: Mutex<Option<OpenFactory>>,
    inbox: Inbox,
}

#[derive(Default)]
struct Queue {
    masks: VecDeque<Step>,
    compilations: VecDeque<Arc<Compilation>>,
    is_compiling: bool,
    num_threads: usize,
    num_overdue: usize,
    closed: bool,
}

/// From one turn to the next.
struct Step {
    from: Arc<Turn>,
    to: Arc<Turn>,
    /// `None`: only the tokens in `banned` are new.
    token: Option<u32>,
    /// Tokens that may not follow, unless nothing else may.
    banned: Vec<u32>,
}

impl Workers {
    /// The turn after `from`, where the tokens in `banned` may not follow unless nothing else may.
    pub fn advance(self: &Arc<Self>, from: &Arc<Turn>, token: Option<u32>, banned: Vec<u32>) -> Arc<Turn> {
        let to = Arc::new(Turn { lexer_bytes: from.lexer_bytes.clone(), done: OnceLock::new() });
        let step = Step { from: from.clone(), to: to.clone(), token, banned };
        self.queue().masks.push_back(step);
        self.news.notify_one();
        to
    }

    /// False when too many wait already.
    fn compile(self: &Arc<Self>, compilation: Arc<Compilation>) -> bool {
        let mut queue = self.queue();
        if queue.compilations.len() >= MAX_QUEUED || queue.num_overdue >= MAX_OVERDUE {
            return false;
        }
        while queue.num_threads < NUM_WORKERS {
            self.start_thread(&mut queue);
        }
        queue.compilations.push_back(compilation);
        self.news.notify_one();
        true
    }

    /// A thread is lost to a compilation past its time.
    fn replace(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.num_overdue += 1;
        queue.is_compiling = false;
        self.start_thread(&mut queue);
    }

    fn start_thread(self: &Arc<Self>, queue: &mut Queue) {
        let workers = self.clone();
        let name = format!("octavo-grammar-{}", queue.num_threads);
        queue.num_threads += 1;
        let run = move || workers.run();
        // Without threads a request waits until its client gives up; no machine that serves is so short of them.
        let _started = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(run);
    }

    fn run(&self) {
        let mut queue = self.queue();
        while !queue.closed {
            if let Some(step) = queue.masks.pop_front() {
                drop(queue);
                step.take();
                queue = self.queue();
            } else if let Some(compilation) = queue.next_compilation() {
                drop(queue);
                let outcome = catch_unwind(AssertUnwindSafe(|| self.build(&compilation)));
                let outcome = outcome.unwrap_or_else(|_| Err("the compiler fails on this grammar".into()));
                let is_overdue = compilation.outcome.set(outcome).is_err();
                self.inbox.wake();
                queue = self.queue();
                if is_overdue {
                    queue.num_overdue -= 1;
                    return;
                }
                queue.is_compiling = false;
                self.news.notify_one();
            } else {
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn build(&self, compilation: &Compilation) -> Result<Arc<Turn>, String> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it is opened once");
        let factory = self.factory.get_or_init(|| {
            let opened = catch_unwind(AssertUnwindSafe(|| open()()));
            opened.unwrap_or_else(|_| Err("the tokenizer could not be opened".into()))
        });
        let factory = factory.as_ref().map_err(Clone::clone)?;
        compilation.began.get_or_init(Instant::now);
        let Structure { kind, text } = &compilation.structure;
        let grammar = match kind {
            StructureKind::JsonSchema => {
                let schema = serde_json::from_str(text).map_err(|error| format!("not a JSON schema: {error}"))?;
                TopLevelGrammar::from_json_schema(schema)
            }
            // The classes \d, \w and \s are those of ASCII, as in JSON Schema.
            StructureKind::Regex => TopLevelGrammar::from_lark(format!("start: /{}/", regex_to_lark(text, "dws"))),
            StructureKind::Lark => {
                nesting::check_lark(text)?;
                TopLevelGrammar::from_lark(text.clone())
            }
        };
        let mut parser = factory.create_parser(grammar).map_err(|error| message(&error))?;
        parser.start_without_prompt();
        let turn = Turn { lexer_bytes: compilation.lexer_bytes.clone(), done: OnceLock::new() };
        turn.finish(parser, None, &[]);
        match turn.wait() {
            Ok(_) => Ok(Arc::new(turn)),
            Err(error) => Err(error.to_owned()),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn next_compilation(&mut self) -> Option<Arc<Compilation>> {
        if self.is_compiling {
            return None;
        }
        let compilation = self.compilations.pop_front()?;
        self.is_compiling = true;
        Some(compilation)
    }
}

impl Step {
    fn take(self) {
        // A request that has ended waits for nothing.
        if Arc::strong_count(&self.to) == 1 {
            return;
        }
        let done = self.from.done.wait();
        let parser = {
            let mut parser = done.parser.lock().unwrap_or_else(PoisonError::into_inner);
            if Arc::strong_count(&self.from) == 1 { parser.take() } else { parser.clone() }
        };
        match parser {
            Some(parser) => self.to.finish(parser, self.token, &self.banned),
            None => self.to.fail("the structure's state is lost".into()),
        }
    }
}

impl Turn {
    fn finish(&self, mut parser: TokenParser, token: Option<u32>, banned: &[u32]) {
        let work = AssertUnwindSafe(|| mask_after(&mut parser, token));
        match llguidance::panic_utils::catch_unwind(work) {
            Ok(mut mask) => {
                ban(&mut mask, banned);
                self.lexer_bytes.store(parser.parser.lexer_stats().num_bytes, Ordering::Relaxed);
                let mask = Ok(mask.as_slice().into());
                let _first = self.done.set(Done { parser: Mutex::new(Some(parser)), mask });
            }
            Err(error) => self.fail(message(&error)),
        }
    }

    fn fail(&self, message: String) {
        let _first = self.done.set(Done { parser: Mutex::new(None), mask: Err(message) });
    }
}

/// The tokens that may follow `token`: the end-of-sequence tokens alone when the grammar has come to its end.
fn mask_after(parser: &mut TokenParser, token: Option<u32>) -> anyhow::Result<SimpleVob> {
    if let Some(token) = token {
        parser.consume_token(token)?;
        parser.check_stop()?;
    }
    if matches!(parser.stop_reason(), StopReason::NoExtension | StopReason::NoExtensionBias) {
        return Ok(parser.token_env.tok_trie().eos_token_set());
    }
    parser.compute_mask()
}

/// Takes tokens out of a mask, if it keeps others.
fn ban(mask: &mut SimpleVob, banned: &[u32]) {
    let known = || banned.iter().copied().filter(|&token| (token as usize) < mask.len() && mask.is_allowed(token));
    let dropped: Vec<u32> = known().collect();
    dropped.iter().for_each(|&token| mask.disallow_token(token));
    if mask.is_zero() {
        dropped.iter().for_each(|&token| mask.allow_token(token));
    }
}

/// One line of an error, without the backtrace that a panic inside llguidance brings along.
fn message(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let lines = text.lines().map(str::trim).take_while(|line| !matches!(*line, "<backtrace>" | "<state>"));
    let mut line = lines.filter(|line| !line.is_empty() && *line != "<non-verbose/>").collect::<Vec<_>>().join(" ");
    if let Some(place) = line.char_indices().map(|(place, _)| place).nth(MAX_MESSAGE) {
        line.truncate(place);
        line.push('…');
    }
    line
}
