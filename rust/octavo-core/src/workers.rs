//! The threads that compile grammars and work out masks.
//!
//! The mask of a token that is sampled next goes before all else, and at most one of the two threads compiles, so that a
//! mask never waits for that. A compilation past its time loses its request, and another thread takes its place.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use llguidance::api::TopLevelGrammar;
use llguidance::{ParserFactory, regex_to_lark};
use octavo_wire::{Structure, StructureKind};

use crate::grammar::Compilation;
use crate::nesting;
use crate::queue::Inbox;
use crate::turn::{MAX_MASK, Turn, message};

const NUM_WORKERS: usize = 2;
/// A grammar may be nested, and its compiler recurses. Only what is touched takes memory.
const STACK_BYTES: usize = 256 << 20;
/// As a `const` or in an `enum` llguidance 1.9 negates it, gets the same number, and recurses without end.
const LEAST_INTEGER: &str = "-9223372036854775808";
/// Grammars that may wait to be compiled.
const MAX_QUEUED: usize = 1024;
/// Threads whose compilation goes on although its request has failed; with so many nothing more is compiled.
const MAX_OVERDUE: usize = 4;

pub(crate) type OpenFactory = Box<dyn FnOnce() -> Result<ParserFactory, String> + Send>;

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
    pub fn new(open: OpenFactory, inbox: Inbox) -> Self {
        let (queue, news, factory) = (Mutex::default(), Condvar::new(), OnceLock::new());
        Workers { queue, news, factory, open: Mutex::new(Some(open)), inbox }
    }

    /// The threads end when they have done what they do.
    pub fn close(&self) {
        self.queue().closed = true;
        self.news.notify_all();
    }

    /// The turn after `from`, where the tokens in `banned` may not follow unless nothing else may.
    pub fn advance(self: &Arc<Self>, from: &Arc<Turn>, token: Option<u32>, banned: Vec<u32>) -> Arc<Turn> {
        let to = Arc::new(Turn::new(from.lexer().clone()));
        let step = Step { from: from.clone(), to: to.clone(), token, banned };
        self.queue().masks.push_back(step);
        self.news.notify_one();
        to
    }

    /// False when too many wait already.
    pub fn compile(self: &Arc<Self>, compilation: Arc<Compilation>) -> bool {
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
    pub fn replace(self: &Arc<Self>) {
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
        if *kind != StructureKind::Regex && text.contains(LEAST_INTEGER) {
            return Err(format!("the number {LEAST_INTEGER} is out of range"));
        }
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
        let turn = Turn::new(compilation.lexer.clone());
        let began = Instant::now();
        turn.finish(parser, None, &[]);
        if began.elapsed() > MAX_MASK {
            return Err(format!("a step of the grammar takes more than {} milliseconds", MAX_MASK.as_millis()));
        }
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
        let parser = self.from.take_parser();
        match parser {
            Some(parser) => self.to.finish(parser, self.token, &self.banned),
            None => self.to.fail("the structure's state is lost".into()),
        }
    }
}
